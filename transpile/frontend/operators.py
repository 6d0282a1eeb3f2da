"""Operators, comparisons and truth of frontend values."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import libcst as cst

from transpile.frontend.builder import Builder, describe
from transpile.frontend.indexing import Indexer
from transpile.frontend.source import ParsedSource
from transpile.frontend.symbolic import compare_sizes, has_unknown, simplified
from transpile.frontend.values import (
    Env,
    Function,
    Gone,
    HostNumber,
    HostTensor,
    Known,
    ModuleRef,
    Opaque,
    Scalar,
    Tile,
    TileOffset,
)
from transpile.ir import ir
from transpile.ir.dtypes import BOOL, F32, I64, DType
from transpile.ir.sizes import Size

BINARY: dict[type, tuple[str, Callable[[Any, Any], Any]]] = {
    cst.Add: ("add", operator.add),
    cst.Subtract: ("sub", operator.sub),
    cst.Multiply: ("mul", operator.mul),
    cst.Divide: ("div", operator.truediv),
    cst.FloorDivide: ("floordiv", operator.floordiv),
    cst.Modulo: ("mod", operator.mod),
    cst.Power: ("pow", operator.pow),
    cst.BitAnd: ("and", operator.and_),
    cst.BitOr: ("or", operator.or_),
    cst.BitXor: ("xor", operator.xor),
    cst.LeftShift: ("shl", operator.lshift),
    cst.RightShift: ("shr", operator.rshift),
    cst.AddAssign: ("add", operator.add),
    cst.SubtractAssign: ("sub", operator.sub),
    cst.MultiplyAssign: ("mul", operator.mul),
    cst.DivideAssign: ("div", operator.truediv),
    cst.FloorDivideAssign: ("floordiv", operator.floordiv),
    cst.ModuloAssign: ("mod", operator.mod),
    cst.PowerAssign: ("pow", operator.pow),
    cst.BitAndAssign: ("and", operator.and_),
    cst.BitOrAssign: ("or", operator.or_),
    cst.BitXorAssign: ("xor", operator.xor),
    cst.LeftShiftAssign: ("shl", operator.lshift),
    cst.RightShiftAssign: ("shr", operator.rshift),
}

COMPARE: dict[type, tuple[str, Callable[[Any, Any], Any]]] = {
    cst.Equal: ("eq", operator.eq),
    cst.NotEqual: ("ne", operator.ne),
    cst.LessThan: ("lt", operator.lt),
    cst.LessThanEqual: ("le", operator.le),
    cst.GreaterThan: ("gt", operator.gt),
    cst.GreaterThanEqual: ("ge", operator.ge),
}

UNKNOWN = HostNumber(BOOL)  # a host condition that only the run time knows


def device_number(x: Any) -> bool:
    """True for values whose arithmetic must be emitted."""
    return isinstance(x, (ir.Value, Scalar, Tile))


class Operators:
    """Python's operators over compile-time values, symbolic sizes and device values.

    What is known at compile time folds, sizes stay polynomials, and once a device value is an
    operand the builder emits. A mixin of :class:`~transpile.frontend.evaluator.Evaluator`.
    """

    source: ParsedSource
    b: Builder
    indexer: Indexer
    on_device: bool

    def eval(self, node: cst.BaseExpression, env: Env) -> Any:
        raise NotImplementedError

    def fail(self, code: str, message: str, *, why: str = "", remedy: str = "") -> NoReturn:
        raise NotImplementedError

    def unsupported(self, node: cst.CSTNode, what: str, remedy: str = "") -> Any:
        raise NotImplementedError

    # -- operators --------------------------------------------------------------------------

    def _binary(self, node: cst.BinaryOperation, env: Env) -> Any:
        left, right = self.eval(node.left, env), self.eval(node.right, env)
        if isinstance(node.operator, cst.MatrixMultiply):
            return self.matmul(left, right)
        return self.binary(type(node.operator), left, right)

    def binary(self, kind: type, left: Any, right: Any) -> Any:
        """A binary operator by its libcst class."""
        name, fold = BINARY[kind]
        if isinstance(left, (TileOffset, Tile)) or isinstance(right, (TileOffset, Tile)):
            special = self._tile_arithmetic(name, left, right)
            if special is not None:
                return special
            left, right = self.tile_number(left), self.tile_number(right)
        if device_number(left) or device_number(right):
            return self.device_binary(name, left, right)
        return self.host_binary(name, fold, left, right)

    def tile_number(self, x: Any) -> Any:
        """A tile in arithmetic stands for its block size."""
        return x.size if isinstance(x, Tile) else x

    def _tile_arithmetic(self, name: str, left: Any, right: Any) -> Any:
        if name == "sub" and isinstance(left, (Tile, TileOffset)):
            base, offset = left, self._negated(right)
        elif name == "add":
            base, offset = (left, right) if isinstance(left, (Tile, TileOffset)) else (right, left)
        else:
            return None
        if isinstance(offset, (Tile, TileOffset, HostTensor)):
            return None
        if isinstance(base, TileOffset):
            offset = self.binary(cst.Add, base.offset, offset)
            base = base.tile
        return TileOffset(base, offset)

    def _negated(self, x: Any) -> Any:
        return self.b.arith("neg", x) if device_number(x) else -x

    def device_binary(self, name: str, left: Any, right: Any) -> Any:
        for side in (left, right):
            if isinstance(side, HostTensor):
                self.fail_host_tensor(side)
        return self.power(left, right) if name == "pow" else self.b.arith(name, left, right)

    def fail_host_tensor(self, tensor: HostTensor) -> NoReturn:
        name = tensor.host or "a host tensor"
        self.fail(
            "KT0406",
            f"host tensor '{name}' is used on the device without a subscript",
            why="device code sees device memory only through loads",
            remedy=f"load from it, e.g. {name}[tile]",
        )

    def power(self, base: Any, exponent: Any) -> Any:
        """``base ** exponent``; small exponents become products and roots."""
        if isinstance(exponent, (int, float)) and not isinstance(exponent, bool):
            if exponent == 2:
                return self.b.arith("mul", base, base)
            if exponent == 3:
                return self.b.arith("mul", self.b.arith("mul", base, base), base)
            if exponent == 0.5:
                return self.b.arith("sqrt", base)
            if exponent == -0.5:
                return self.b.arith("rsqrt", base)
            if exponent == 1:
                return base
        return self.b.arith("pow", base, exponent)

    def host_binary(self, name: str, fold: Callable[[Any, Any], Any], left: Any, right: Any) -> Any:
        if isinstance(left, (Opaque, HostTensor, Gone)) or isinstance(
            right, (Opaque, HostTensor, Gone)
        ):
            return self.host_tensor_binary(left, right)
        if isinstance(left, Size) or isinstance(right, Size):
            return self._size_binary(name, fold, left, right)
        if isinstance(left, HostNumber) or isinstance(right, HostNumber):
            return self._number_binary(name, left, right)
        try:
            return fold(left, right)
        except ZeroDivisionError:
            self.fail("KT0407", "division by zero in a compile-time expression")
        except (TypeError, ValueError, OverflowError):
            if not self.on_device:
                return Opaque("host expression")
            self.fail(
                "KT0408", f"operator on {describe(left)} and {describe(right)} is not defined"
            )

    def host_tensor_binary(self, left: Any, right: Any) -> Any:
        return Opaque("host expression")

    def _size_binary(
        self, name: str, fold: Callable[[Any, Any], Any], left: Any, right: Any
    ) -> Any:
        integers = all(isinstance(x, (int, Size)) for x in (left, right))
        if integers and name in ("add", "sub", "mul", "floordiv", "mod"):
            if name in ("floordiv", "mod") and Size.of(right) == Size.of(0):
                self.fail("KT0407", "division by zero in a compile-time expression")
            return simplified(fold(Size.of(left), Size.of(right)))
        if integers and name == "pow" and isinstance(right, int) and 0 <= right <= 4:
            total = Size.of(1)
            for _ in range(right):
                total = total * left
            return simplified(total)
        if self.on_device:
            return self.device_binary(name, left, right)
        return HostNumber(F32) if name == "div" else Opaque("host expression")

    def _number_binary(self, name: str, left: Any, right: Any) -> Any:
        if self.on_device:
            return self.device_binary(name, left, right)
        float_like = name == "div" or any(
            isinstance(x, float) or (isinstance(x, HostNumber) and x.dtype.is_float)
            for x in (left, right)
        )
        return HostNumber(F32 if float_like else I64)

    def matmul(self, left: Any, right: Any) -> Any:
        if isinstance(left, ir.Value) and isinstance(right, ir.Value):
            return self.b.dot(left, right)
        for side in (left, right):
            if self.on_device and isinstance(side, HostTensor):
                self.fail_host_tensor(side)
        return self.host_tensor_binary(left, right)

    def _unary(self, node: cst.UnaryOperation, env: Env) -> Any:
        value = self.eval(node.expression, env)
        if isinstance(node.operator, cst.Not):
            truth = self.truth(value)
            if truth is None:
                return (
                    Scalar(self.b.elementwise("not", self.condition(value)))
                    if (device_number(value) or self.on_device)
                    else UNKNOWN
                )
            return not truth
        if isinstance(node.operator, cst.Plus):
            return value
        invert = isinstance(node.operator, cst.BitInvert)
        value = self.tile_number(value)
        if device_number(value) or (self.on_device and isinstance(value, HostNumber)):
            return self.b.arith("not" if invert else "neg", value)
        if isinstance(value, (Opaque, HostTensor)):
            if self.on_device and isinstance(value, HostTensor):
                self.fail_host_tensor(value)
            return value if isinstance(value, HostTensor) else Opaque("host expression")
        if isinstance(value, HostNumber):
            return HostNumber(value.dtype)
        if invert:
            return ~value if isinstance(value, int) else Opaque("host expression")
        return simplified(-value)

    # -- truth ------------------------------------------------------------------------------

    def truth(self, value: Any) -> bool | None:
        """The compile-time truth of a value, None if only the run time knows."""
        if isinstance(value, Size):
            number = value.as_int()
            return None if number is None else bool(number)
        if isinstance(value, (HostNumber, Opaque, Scalar, ir.Value, Gone)):
            return None
        if isinstance(value, (HostTensor, Function, Known, DType, ModuleRef)):
            return True
        return bool(value)

    def condition(self, value: Any) -> ir.Value:
        """A run-time condition as a bool scalar."""
        scalar = self.b.scalar(value)
        if scalar.shape:
            self.fail(
                "KT0409",
                f"the condition is {describe(scalar)}",
                why="control flow needs one truth value, not one per lane",
                remedy="select per lane with torch.where, or reduce the condition",
            )
        return scalar if scalar.dtype.is_bool else self.b.elementwise("ne", scalar, 0)

    def _boolean(self, node: cst.BooleanOperation, env: Env) -> Any:
        left = self.eval(node.left, env)
        conjunction = isinstance(node.operator, cst.And)
        truth = self.truth(left)
        if truth is not None:
            if truth != conjunction:
                return left
            return self.eval(node.right, env)
        right = self.eval(node.right, env)
        right_truth = self.truth(right)
        if right_truth is not None and right_truth != conjunction and not self.on_device:
            return right
        if self.on_device:
            if right_truth is not None:
                return left if right_truth == conjunction else right
            name = "and" if conjunction else "or"
            return Scalar(self.b.elementwise(name, self.condition(left), self.condition(right)))
        return UNKNOWN

    def _comparison(self, node: cst.Comparison, env: Env) -> Any:
        left = self.eval(node.left, env)
        result: Any = True
        for part in node.comparisons:
            right = self.eval(part.comparator, env)
            one = self.compare(part.operator, left, right)
            left = right
            if result is True:
                result = one
            elif one is not True:
                truth = self.truth(result)
                if truth is False:
                    return False
                if self.on_device and truth is None:
                    result = self.b.arith("and", result, one)
                else:
                    result = one if truth else UNKNOWN
        return result

    def compare(self, op: cst.BaseCompOp, left: Any, right: Any) -> Any:
        """One comparison; a bool when known at compile time."""
        if isinstance(op, (cst.Is, cst.IsNot)):
            return self._identity(isinstance(op, cst.Is), left, right)
        if isinstance(op, (cst.In, cst.NotIn)):
            if isinstance(right, (tuple, list, dict, str)) and not has_unknown(left):
                inside = left in right
                return inside if isinstance(op, cst.In) else not inside
            return UNKNOWN
        name, fold = COMPARE[type(op)]
        left, right = self.tile_number(left), self.tile_number(right)
        if device_number(left) or device_number(right):
            for side in (left, right):
                if isinstance(side, HostTensor):
                    self.fail_host_tensor(side)
            self._compared(left, right)
            return self.b.arith(name, left, right)
        if isinstance(left, (Opaque, HostTensor)) or isinstance(right, (Opaque, HostTensor)):
            return UNKNOWN
        if isinstance(left, (tuple, list)) and isinstance(right, (tuple, list)):
            return self._compare_sequences(name, left, right)
        known = self._compare_known(name, fold, left, right)
        if known is None and self.on_device:
            return self.b.arith(name, left, right)
        return UNKNOWN if known is None else known

    def _compared(self, left: Any, right: Any) -> None:
        """What is compared with a tile of integers (positions) is taken for integers itself."""
        for one, other in ((left, right), (right, left)):
            positions = isinstance(other, ir.Value) and other.shape and other.dtype.is_int
            if positions and isinstance(one, ir.Value):
                self.indexer.require_position(one)

    def _identity(self, same: bool, left: Any, right: Any) -> Any:
        if left is None or right is None:
            if isinstance(left, (Opaque, Gone)) or isinstance(right, (Opaque, Gone)):
                return UNKNOWN
            return (left is right) == same
        if isinstance(left, (bool, DType)) and isinstance(right, (bool, DType)):
            return (left == right) == same
        return UNKNOWN

    def _compare_sequences(self, name: str, left: Sequence[Any], right: Sequence[Any]) -> Any:
        if name not in ("eq", "ne"):
            return UNKNOWN
        if len(left) != len(right):
            return name == "ne"
        parts = [self.compare(cst.Equal(), a, b) for a, b in zip(left, right, strict=True)]
        if all(p is True for p in parts):
            return name == "eq"
        if any(p is False for p in parts):
            return name == "ne"
        return UNKNOWN

    def _compare_known(
        self, name: str, fold: Callable[[Any, Any], Any], left: Any, right: Any
    ) -> bool | None:
        if isinstance(left, HostNumber) or isinstance(right, HostNumber):
            return None
        if isinstance(left, Size) or isinstance(right, Size):
            if not all(isinstance(x, (int, Size)) for x in (left, right)):
                return None
            return compare_sizes(name, Size.of(left), Size.of(right))
        try:
            return bool(fold(left, right))
        except TypeError:
            return None

    def _ifexp(self, node: cst.IfExp, env: Env) -> Any:
        truth = self.truth(self.eval(node.test, env))
        if truth is not None:
            return self.eval(node.body if truth else node.orelse, env)
        if self.on_device:
            return self.unsupported(
                node, "a run-time ternary", "use torch.where or an if statement"
            )
        return self.merge_host(self.eval(node.body, env), self.eval(node.orelse, env))

    def _merge_tensors(self, a: HostTensor, b: HostTensor) -> Any:
        if a.dtype != b.dtype or a.shape is None or a.shape != b.shape:
            return Opaque("a tensor that depends on a run-time condition")
        strides = tuple(x if x == y else None for x, y in zip(a.strides, b.strides, strict=True))
        return HostTensor(a.dtype, a.shape, strides, source=a.memory)

    def merge_host(self, a: Any, b: Any) -> Any:
        """What is known of a host value that is one of two."""
        if a is b or (type(a) is type(b) and isinstance(a, (int, Size, str, DType)) and a == b):
            return a
        kinds = {_number_dtype(a), _number_dtype(b)}
        if len(kinds) == 1 and (dtype := kinds.pop()) is not None:
            return HostNumber(dtype)
        if isinstance(a, HostTensor) and isinstance(b, HostTensor):
            return self._merge_tensors(a, b)
        return Opaque("a value that depends on a run-time condition")


def _number_dtype(x: Any) -> DType | None:
    """The dtype a host number has on the device, None for anything else."""
    if isinstance(x, HostNumber):
        return x.dtype
    if isinstance(x, bool):
        return BOOL
    if isinstance(x, (int, Size)):
        return I64
    return F32 if isinstance(x, float) else None
