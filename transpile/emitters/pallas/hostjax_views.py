"""Views: JAX arrays have none, so a write through one is put back into what it is a view of."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import libcst as cst

from transpile.emitters.pallas.hostjax_calls import atom

_RESHAPES = frozenset(
    ("view", "reshape", "flatten", "unsqueeze", "squeeze", "view_as", "reshape_as")
)
_SAME = frozenset(("contiguous", "detach"))


@dataclass(frozen=True, slots=True)
class Step:
    """One operation of a view. ``inner`` is the torch expression that it is applied to."""

    kind: str  # reshape, transpose, permute, index, same
    inner: str
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class View:
    """``base`` after some steps, e.g. ``x.view(-1)``; ``text`` is the torch expression."""

    base: str
    steps: tuple[Step, ...]
    text: str

    @property
    def whole(self) -> bool:
        """True if it has all elements of its base."""
        return all(step.kind != "index" for step in self.steps)

    def put(self, value: str, translate: Callable[[str], str], base_shape: str = "") -> str:
        """The base's new value where the view's is ``value``, in JAX.

        ``base_shape`` gives the base's shape where there is no array to ask yet.
        """
        for number in range(len(self.steps) - 1, -1, -1):
            step = self.steps[number]
            inner = translate(step.inner)
            match step.kind:
                case "reshape":
                    shape = base_shape if number == 0 and base_shape else f"{atom(inner)}.shape"
                    value = f"{atom(value)}.reshape({_unpacked(shape)})"
                case "transpose":
                    value = f"jnp.swapaxes({value}, {step.arguments})"
                case "permute":
                    value = f"{atom(value)}.transpose({_inverse(step.arguments)})"
                case "index":
                    value = f"{atom(inner)}.at[{step.arguments}].set({value})"
        return value


def _unpacked(shape: str) -> str:
    return shape[1:-1].rstrip(",") if shape.startswith("(") else shape


def _inverse(order: str) -> str:
    dims = [int(d) for d in re.findall(r"-?\d+", order)]
    dims = [d % len(dims) for d in dims]
    return ", ".join(str(dims.index(i)) for i in range(len(dims)))


def view_of(text: str) -> View | None:
    """The view that an expression is, or None if it is something else (also for a bare name)."""
    node: cst.BaseExpression = cst.parse_expression(text)
    steps: list[Step] = []
    while not isinstance(node, cst.Name):
        found = _peel(node)
        if found is None:
            return None
        step, node = found
        steps.append(step)
    return View(node.value, tuple(reversed(steps)), text) if steps else None


def _peel(node: cst.BaseExpression) -> tuple[Step, cst.BaseExpression] | None:
    """The outermost step of a view, and what it is applied to."""
    code = cst.Module([]).code_for_node
    if isinstance(node, cst.Subscript):
        inner = code(node.value)
        return Step("index", inner, code(node)[len(inner) + 1 : -1]), node.value
    if isinstance(node, cst.Attribute) and node.attr.value in ("T", "mT"):
        return Step("transpose", code(node.value), "-2, -1"), node.value
    if not isinstance(node, cst.Call) or not isinstance(node.func, cst.Attribute):
        return None
    name, value = node.func.attr.value, node.func.value
    inner = code(value)
    arguments = ", ".join(code(a.value) for a in node.args)
    if name in _RESHAPES:
        if name == "view" and re.search(r"\bdtype\b|\btorch\.\w*\d", arguments):
            return None
        return Step("reshape", inner), value
    if name in _SAME:
        return Step("same", inner), value
    if name == "t" or (name == "transpose" and len(node.args) == 2):
        return Step("transpose", inner, arguments or "0, 1"), value
    if name == "permute" and re.fullmatch(r"[\s\d,()\[\]-]+", arguments):
        return Step("permute", inner, arguments.strip("([])")), value
    return None
