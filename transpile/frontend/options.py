"""What a build asks of a frontend."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from transpile.frontend.project import ProjectConfig


@dataclass(frozen=True)
class FrontendOptions:
    """``kernels`` limits which are lowered; ``args`` and ``sets`` are the command line's texts;
    ``config`` overrides the source's schedule key by key."""

    kernels: tuple[str, ...] = ()
    args: dict[str, str] = field(default_factory=dict)
    sets: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] | None = None
    project: ProjectConfig = field(default_factory=ProjectConfig)
