"""Module-level source that the generated host function still needs.

Starting from the names in the kernel's host statements, defaults and annotations, the imports,
constants and helper functions they refer to are collected, transitively.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import libcst as cst

from transpile.frontend.helion.kernels import HELPERS, KernelSite
from transpile.frontend.source import ParsedSource
from transpile.frontend.syntax import names_read
from transpile.ir import ir

_WORD = re.compile(r"[A-Za-z_]\w*")
_STRING = re.compile(r"('''|\"\"\").*?\1|'[^'\n]*'|\"[^\"\n]*\"", re.DOTALL)


@dataclass
class Definition:
    """A module-level definition: its place in the file, and its node or an import's text."""

    position: int
    node: cst.CSTNode | None
    import_text: str = ""

    def text(self, source: ParsedSource) -> str:
        """Source text without the comments above it."""
        if self.node is None:
            return self.import_text
        if isinstance(self.node, (cst.FunctionDef, cst.ClassDef)):
            return source.code(self.node.with_changes(leading_lines=())).rstrip()
        return source.code(self.node).rstrip(" ;")

    def reads(self) -> set[str]:
        """Names the definition refers to."""
        return set() if self.node is None else names_read([self.node])


def collect(
    source: ParsedSource,
    site: KernelSite,
    host: tuple[ir.HostCode | ir.Launch, ...],
) -> str:
    """Source text, in source order; ``helion`` itself is never imported."""
    wanted: set[str] = set()
    for item in host:
        if isinstance(item, ir.HostCode):
            wanted |= set(_WORD.findall(item.text))
    params = site.node.params
    for param in (*params.posonly_params, *params.params, *params.kwonly_params):
        parts: list[cst.CSTNode] = [p for p in (_bare(param), param.default) if p is not None]
        wanted |= names_read(parts)
        wanted |= _quoted_names(parts, source)
    if site.node.returns is not None:
        wanted |= names_read([site.node.returns.annotation])
    definitions = source.definitions
    if definitions is None:
        definitions = source.definitions = _definitions(source)
    chosen: dict[int, list[str]] = {}
    queue = sorted(wanted)
    seen: set[str] = set()
    while queue:
        name = queue.pop()
        if name in seen or name not in definitions or name == site.node.name.value:
            continue
        seen.add(name)
        found = definitions[name]
        text = found.text(source)
        if "helion" not in text:
            chosen.setdefault(found.position, []).append(text)
            queue.extend(sorted(found.reads()))
    return "\n".join(text for p in sorted(chosen) for text in sorted(chosen[p]))


def _bare(param: cst.Param) -> cst.CSTNode | None:
    return None if param.annotation is None else param.annotation.annotation


def _quoted_names(parts: list[cst.CSTNode], source: ParsedSource) -> set[str]:
    return {
        w
        for part in parts
        for s in _STRING.finditer(source.code(part))
        for w in _WORD.findall(s[0])
    }


def _definitions(source: ParsedSource) -> dict[str, Definition]:
    """Module-level names and what defines them."""
    out: dict[str, Definition] = {}
    for position, statement in enumerate(source.statements):
        if isinstance(statement, (cst.FunctionDef, cst.ClassDef)):
            out[statement.name.value] = Definition(position, statement)
        elif isinstance(statement, cst.SimpleStatementLine):
            for small in statement.body:
                _small(source, small, position, out)
    return out


def _small(
    source: ParsedSource, node: cst.CSTNode, position: int, out: dict[str, Definition]
) -> None:
    if isinstance(node, cst.Import):
        for alias in node.names:
            text = f"import {source.code(alias).rstrip(', ')}"
            bound = alias.asname.name if alias.asname is not None else alias.name
            out[source.code(bound).split(".")[0]] = Definition(position, None, text)
    elif isinstance(node, cst.ImportFrom) and not isinstance(node.names, cst.ImportStar):
        module = "." * len(node.relative) + (source.code(node.module) if node.module else "")
        if module == "__future__":
            return
        for one in node.names:
            bound_name = source.code(one.asname.name if one.asname is not None else one.name)
            text = f"from {module} import {source.code(one).rstrip(', ')}"
            if (helper := HELPERS.get(f"{module}.{source.code(one.name)}")) is not None:
                text = f"{bound_name} = {helper[1]}"
            out[bound_name] = Definition(position, None, text)
    elif isinstance(node, (cst.Assign, cst.AnnAssign)) and node.value is not None:
        targets = (
            [t.target for t in node.targets] if isinstance(node, cst.Assign) else [node.target]
        )
        for target in targets:
            if isinstance(target, cst.Name):
                out[target.value] = Definition(position, node)
