"""Where the templates and shims are: beside the package in a checkout, inside it when installed."""

from __future__ import annotations

import os
from functools import cache
from typing import Literal

Folder = Literal["templates", "runtime_shims"]

_PACKAGE = os.path.dirname(os.path.abspath(__file__))


@cache
def folder(name: Folder) -> str:
    """The directory of the resources: ``templates`` or ``runtime_shims``."""
    installed = os.path.join(_PACKAGE, "_data", name)
    if os.path.isdir(installed):
        return installed
    return os.path.join(os.path.dirname(_PACKAGE), name)


def read(name: Folder, path: str) -> str:
    """The text of one resource; ``path`` is relative to its folder, with forward slashes."""
    with open(os.path.join(folder(name), *path.split("/")), encoding="utf-8") as stream:
        return stream.read()


def shim(target: str) -> str:
    """The text of ``_kt_<target>.py``."""
    return read("runtime_shims", f"_kt_{target}.py")
