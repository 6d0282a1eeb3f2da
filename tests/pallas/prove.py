"""Snippets proved as `kt verify -t pallas` proves files: three compilers, two interpreters."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from transpile import proofs
from transpile.build import BuildOptions

HEAD = (
    "import torch\nimport torch.nn.functional as F\nimport helion\nimport helion.language as hl\n"
)


@dataclass(frozen=True)
class Snippet:
    """One kernel: its source, with NAME for its name, and how to run it.

    ``values`` are ranges of parameters (``"0:V"``), ``reference`` the body of a torch function of
    the same parameters; without one, the IR's interpreter alone says what is right.
    """

    source: str
    args: Mapping[str, str]
    shapes: tuple[Mapping[str, int], ...]
    values: Mapping[str, str | int] = field(default_factory=dict)
    reference: str = ""


def prove(folder: Path, snippets: dict[str, Snippet]) -> str:
    """The table of what fails, or "" if every cell of every snippet is green."""
    source, project = [HEAD], []
    for name, snippet in snippets.items():
        source.append(textwrap.dedent(snippet.source).strip("\n").replace("NAME", name))
        project += [f"[kernels.{name}]", f"signatures = [{_table(snippet.args)}]"]
        project.append(f"shapes = [{', '.join(map(_table, snippet.shapes))}]")
        if snippet.values:
            project.append(f"values = {_table(snippet.values)}")
        if snippet.reference:
            body = textwrap.indent(textwrap.dedent(snippet.reference).strip("\n"), "    ")
            source.append(f"def {name}_reference({', '.join(snippet.args)}):\n{body}")
            project.append(f'reference = "snippets.py:{name}_reference"')
    (folder / "snippets.py").write_text("\n\n".join(source) + "\n")
    (folder / "kt.toml").write_text("\n".join(project) + "\n")
    path = str(folder / "snippets.py")
    result = proofs.verify([path], BuildOptions(targets=("pallas",)), None, processes=1)
    errors = [str(d) for d in result.diagnostics if d.severity == "error"]
    assert len(result.rows) == len(snippets) or errors
    return "\n".join(errors) + (proofs.table(result) if result.failed else "")


def _table(entries: Mapping[str, str | int]) -> str:
    pairs = (f'{k} = "{v}"' if isinstance(v, str) else f"{k} = {v}" for k, v in entries.items())
    return "{ " + ", ".join(pairs) + " }"
