"""Host programs without what is known: aliases of names, branches on compile-time values."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import libcst as cst

from transpile.emitters.pallas.hostjax_scan import bound
from transpile.ir import ir

_ALIAS = re.compile(r"([A-Za-z_]\w*) = ([A-Za-z_]\w*)")


def without_aliases(kernel: ir.Kernel) -> ir.Kernel:
    """The kernel with ``head_dim = d`` gone and ``d`` read instead, where neither name is bound
    twice and no tensor or scalar of the device goes by the alias."""
    texts = [item.text for item in kernel.host if isinstance(item, ir.HostCode)]
    counts = Counter(name for text in texts if _complete(text) for name in bound(text))
    counts.update(p.name for p in kernel.params)
    spelled = " ".join([t.host for t in kernel.tensors] + [s.host for s in kernel.scalars])
    aliases: dict[str, str] = {}
    for item in kernel.host:
        if not isinstance(item, ir.HostCode) or not item.pure:
            continue
        match = _ALIAS.fullmatch(item.text)
        if match is None or counts[match[1]] != 1 or counts[match[2]] != 1:
            continue
        if not re.search(rf"\b{match[1]}\b", spelled):
            aliases[match[1]] = aliases.get(match[2], match[2])
    if not aliases:
        return kernel
    host = tuple(
        replace(item, text=_renamed(item.text, aliases)) if isinstance(item, ir.HostCode) else item
        for item in kernel.host
        if not (isinstance(item, ir.HostCode) and _is_alias(item, aliases))
    )
    names = tuple((size, _renamed(name, aliases)) for size, name in kernel.size_names)
    return replace(kernel, host=host, size_names=names)


def _is_alias(item: ir.HostCode, aliases: Mapping[str, str]) -> bool:
    match = _ALIAS.fullmatch(item.text)
    return match is not None and match[1] in aliases


def _complete(text: str) -> bool:
    try:
        cst.parse_module(text + "\n")
    except cst.ParserSyntaxError:
        return False
    return True


class _Renamer(cst.CSTTransformer):
    def __init__(self, names: Mapping[str, str]) -> None:
        super().__init__()
        self.names = names

    def leave_Attribute(
        self, original_node: cst.Attribute, updated_node: cst.Attribute
    ) -> cst.BaseExpression:
        return updated_node.with_changes(attr=original_node.attr)

    def leave_Arg(self, original_node: cst.Arg, updated_node: cst.Arg) -> cst.Arg:
        return updated_node.with_changes(keyword=original_node.keyword)

    def leave_Name(self, original_node: cst.Name, updated_node: cst.Name) -> cst.Name:
        name = self.names.get(original_node.value)
        return updated_node if name is None else updated_node.with_changes(value=name)


def _renamed(text: str, names: Mapping[str, str]) -> str:
    """The text with names replaced; attributes and keywords of calls are other names."""
    if not any(re.search(rf"\b{name}\b", text) for name in names):
        return text
    if not _complete(text):  # a piece of a compound statement
        pattern = "|".join(map(re.escape, names))
        return re.sub(rf"(?<![\w.])({pattern})\b(?!=[^=])", lambda m: names[m[1]], text)
    return cst.parse_module(text + "\n").visit(_Renamer(names)).code.rstrip("\n")


# -- branches --------------------------------------------------------------------------------------


def decided(text: str, constants: Mapping[str, object]) -> str:
    """Statements with ``if`` on compile-time values decided, "" where nothing is left."""
    module = cst.parse_module(text + "\n").visit(_Decider(constants))
    return module.code.strip("\n")


class _Decider(cst.CSTTransformer):
    def __init__(self, constants: Mapping[str, object]) -> None:
        super().__init__()
        self.constants = constants

    def leave_If(
        self, original_node: cst.If, updated_node: cst.If
    ) -> cst.BaseStatement | cst.FlattenSentinel[cst.BaseStatement] | cst.RemovalSentinel:
        known = self.value(original_node.test)
        if known is None:
            return updated_node
        branch: cst.BaseSuite | None = updated_node.body
        if not known:
            orelse = updated_node.orelse
            if isinstance(orelse, cst.If):
                return orelse
            branch = orelse.body if orelse is not None else None
        if branch is None:
            return cst.RemoveFromParent()
        if not isinstance(branch, cst.IndentedBlock):
            return updated_node
        statements = [s for s in branch.body if isinstance(s, cst.BaseStatement)]
        return cst.FlattenSentinel(statements)

    def value(self, test: cst.BaseExpression) -> bool | None:
        """Whether a condition holds; None if it depends on more."""
        match test:
            case cst.Name(value=name) if name in self.constants:
                return bool(self.constants[name])
            case cst.UnaryOperation(operator=cst.Not(), expression=inner):
                known = self.value(inner)
                return None if known is None else not known
            case cst.Comparison(left=cst.Name(value=name), comparisons=[one]) if (
                name in self.constants
            ):
                return self._compared(self.constants[name], one)
            case _:
                return None

    def _compared(self, value: object, target: cst.ComparisonTarget) -> bool | None:
        other = target.comparator
        wanted: object
        if isinstance(other, cst.Name) and other.value in ("None", "True", "False"):
            wanted = {"None": None, "True": True, "False": False}[other.value]
        elif isinstance(other, cst.SimpleString | cst.Integer):
            wanted = other.evaluated_value
        else:
            return None
        same = value is wanted if wanted is None else value == wanted
        match target.operator:
            case cst.Is() | cst.Equal():
                return same
            case cst.IsNot() | cst.NotEqual():
                return not same
            case _:
                return None
