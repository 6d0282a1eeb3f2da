"""Fast syntax traversal.

``CSTNode.children`` runs libcst's visitor machinery for every call; looking at the dataclass fields
that can hold nodes is an order of magnitude cheaper, and lowering asks for children a lot.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import libcst as cst

_WHITESPACE = (
    "whitespace", "leading_lines", "lines_after", "header", "footer", "comma", "semicolon", "lpar",
    "rpar", "lbracket", "rbracket", "equal", "colon", "dot", "newline",
)  # fmt: skip
_FIELDS: dict[type[cst.CSTNode], tuple[str, ...]] = {}


def _fields(kind: type[cst.CSTNode]) -> tuple[str, ...]:
    if kind not in _FIELDS:
        names = (f.name for f in dataclasses.fields(kind))
        _FIELDS[kind] = tuple(n for n in names if not n.startswith(_WHITESPACE))
    return _FIELDS[kind]


def children(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """The nodes directly below ``node``, punctuation and whitespace left out."""
    for name in _fields(type(node)):
        value = getattr(node, name)
        if isinstance(value, cst.CSTNode):
            yield value
        elif isinstance(value, (tuple, list)):
            for item in value:
                if isinstance(item, cst.CSTNode):
                    yield item


def names_read(nodes: Sequence[cst.CSTNode]) -> set[str]:
    """All names that occur in the nodes, attribute names and keywords left out."""
    found: set[str] = set()
    stack = list(nodes)
    while stack:
        node = stack.pop()
        if isinstance(node, cst.Name):
            found.add(node.value)
        elif isinstance(node, (cst.Attribute, cst.Arg)):
            stack.append(node.value)
        else:
            stack.extend(children(node))
    return found
