"""Loops over the components of one vector as arithmetic on vectors.

``half4 t; for (j < 4) t[j] = half(float(x[j]) * scale)`` is ``half4 t = half4(float4(x) * scale)``:
Metal's operators and mathematical functions take vectors. What they do not take (comparisons that
choose, helper functions) stays a loop.
"""

from __future__ import annotations

from transpile.emitters.msl import ops
from transpile.emitters.msl.dtypes import computes
from transpile.emitters.msl.expr import Expressions, directly
from transpile.emitters.msl.numbers import Text, enclosed
from transpile.emitters.msl.ops import ATOM
from transpile.ir.dtypes import BF16, F16, F32, I32, U32, DType
from transpile.thread import ir
from transpile.thread.merge import TypeParam
from transpile.thread.walk import nodes

_OPERATORS = frozenset({"add", "sub", "mul", "div"})
_FUNCTIONS = frozenset(ops.FLOATS) & {
    "neg", "abs", "exp", "exp2", "log", "log2", "log10", "sqrt", "rsqrt", "sin", "cos", "tan",
    "asin", "acos", "atan", "sinh", "cosh", "tanh", "sigmoid", "floor", "ceil", "round", "trunc",
}  # fmt: skip
_FLOATS = (F16, BF16, F32)
_WORDS = (I32, U32)


def _is_float(dtype: DType) -> bool:
    """Whether the type has vectors that compute."""
    return dtype in _FLOATS or (isinstance(dtype, TypeParam) and dtype.is_float)


class Vectors:
    """Prints what the components of vectors have in common."""

    def __init__(self, exprs: Expressions, loop: ir.LaneLoop) -> None:
        self.exprs = exprs
        self.width = loop.count
        self.component = loop.var
        targets = [s.target for s in loop.body if isinstance(s, ir.Assign)]
        self.changed = {t.array for t in targets if isinstance(t, ir.Element)}
        self.names: dict[ir.Var, str] = {}  # scalars of the loop that have become vectors
        assigned = (s.target for s in loop.body if isinstance(s, ir.Assign))
        self.left: set[ir.Var] = {t for t in assigned if isinstance(t, ir.Var)}  # not to be read
        self.kept: set[ir.Var] = set()  # not to be changed

    def leave(self, stmt: ir.Let | ir.Assign) -> None:
        """The statement stays in the loop, after all vectors: what it sets is not known to them,
        and what it reads they must not change."""
        target = stmt.var if isinstance(stmt, ir.Let) else stmt.target
        self.left.add(target if isinstance(target, ir.Var) else target.array)
        if stmt.value is not None:
            self.kept |= {e for e in nodes(stmt.value) if isinstance(e, ir.Var)}

    def of(self, expr: ir.Expr) -> Text | None:
        """All components of the expression as one vector; None if it has to be a loop."""
        match expr:
            case ir.Var() if expr in self.names:
                return self.names[expr], ATOM
            case ir.Element(component=at) if at == self.component:
                return self._whole(expr)
            case ir.Convert(value=value, dtype=dtype, bitcast=False) if _is_float(dtype):
                return self._converted(value, dtype)
            case ir.Apply(name=name, dtype=dtype) if _is_float(dtype):
                if name in _OPERATORS or name in _FUNCTIONS:
                    return self._applied(expr)
            case ir.Apply(name="add" | "sub" | "mul", dtype=dtype) if dtype in _WORDS:
                return self._applied(expr)
        return None

    def _whole(self, expr: ir.Element) -> Text | None:
        if (
            expr.array in self.left
            or expr.array.components != self.width
            or any(self._varies(i) for i in expr.index)
        ):
            return None
        place = self.exprs.place_of(ir.Element(expr.array, expr.index))
        if expr.array.fragment is not None:
            self.exprs.helpers.add("elements")
            return f"elements({place})", ATOM
        return place, ops.POSTFIX

    def _converted(self, value: ir.Expr, dtype: DType) -> Text | None:
        inner = self.of(value)
        plain = _is_float(value.dtype) or (value.dtype.is_int and value.dtype.bits <= 32)
        if inner is None or not (_is_float(dtype) or dtype in _WORDS) or not plain:
            return None
        if dtype in _WORDS and not value.dtype.is_int:
            return None
        if not directly(value.dtype, dtype):
            return None
        return f"{self.exprs.type(dtype, self.width)}({inner[0]})", ATOM

    def _applied(self, expr: ir.Apply) -> Text | None:
        spelling = ops.FLOATS[expr.name]
        wide = not computes(expr.dtype) or (expr.dtype == F16 and not spelling.native)
        texts, vectors = [], 0
        for arg, need in zip(expr.args, spelling.needs, strict=False):
            found = self._operand(arg)
            vectors += found is not None
            if found is None:
                if self._varies(arg) or expr.name not in _OPERATORS:
                    return None
                texts.append(self.exprs.widened(arg) if wide else self.exprs.text(arg, need))
            elif wide:
                texts.append(f"{self.exprs.type(F32, self.width)}({found[0]})")
            else:
                texts.append(enclosed(found, need))
        if not vectors:
            return None
        text = spelling.template.format(*texts)
        if wide:
            return f"{self.exprs.type(expr.dtype, self.width)}({text})", ATOM
        return text, spelling.prec

    def _operand(self, arg: ir.Expr) -> Text | None:
        """The same for an operand; integers are worth converting only for arithmetic on them."""
        match arg:
            case ir.Convert(value=value, dtype=dtype, bitcast=False) if dtype in _WORDS:
                return self._converted(value, dtype)
        return self.of(arg)

    def _varies(self, expr: ir.Expr) -> bool:
        """True if the value differs from component to component."""
        match expr:
            case ir.Var():
                return expr == self.component or expr in self.names or expr in self.left
            case ir.Element(array=array, index=index, component=at):
                return (
                    array in self.changed
                    or any(self._varies(i) for i in index)
                    or (at is not None and self._varies(at))
                )
            case ir.Apply(args=args):
                return any(self._varies(a) for a in args)
            case ir.Convert(value=value):
                return self._varies(value)
            case ir.Const() | ir.Extent() | ir.HostScalar() | ir.Id():
                return False
        return True  # loads and what lanes exchange are not repeated in an expression
