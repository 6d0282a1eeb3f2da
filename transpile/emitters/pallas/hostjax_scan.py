"""What statements of a host program bind, change and ask of tensors."""

from __future__ import annotations

import re

import libcst as cst
import libcst.matchers as m

_WORD = re.compile(r"[A-Za-z_]\w*")


def bound(text: str) -> set[str]:
    """Names that a statement binds."""
    found: set[str] = set()

    def collect(target: cst.BaseExpression) -> None:
        if isinstance(target, cst.Name):
            found.add(target.value)
        elif isinstance(target, cst.Tuple | cst.List):
            for element in target.elements:
                collect(element.value)

    if text:
        kinds = m.AssignTarget() | m.AnnAssign() | m.AugAssign() | m.For()
        for node in m.findall(cst.parse_module(text + "\n"), kinds):
            assert isinstance(node, cst.AssignTarget | cst.AnnAssign | cst.AugAssign | cst.For)
            collect(node.target)
    return found


def changed_on_host(text: str) -> set[str]:
    """Tensors that a statement changes in place: ``x[...] = v``, ``x += v``, ``x.zero_()``."""
    element = re.findall(r"^\s*(\w+)\[[^=\n]*\] (?:[-+*/@|&]|//)?= ", text, re.MULTILINE)
    called = re.findall(r"^\s*(\w+)(?:\[.*\])?\.\w+_\(", text, re.MULTILINE)
    return {*element, *called}


_ASKS = r"\.(?:shape|dtype|ndim|device|size\(|dim\(|numel\(|stride\(|is_contiguous\()"


def needs_array(text: str, name: str) -> bool:
    """Whether a statement needs more of a tensor than its shape and dtype."""
    rest = re.sub(rf"\b{name}{_ASKS}", "", text)
    rest = re.sub(rf"\b(?:empty|zeros|ones|full)_like\({name}\b", "", rest)
    return name in _WORD.findall(rest)
