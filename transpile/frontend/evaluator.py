"""Expression evaluation over libcst, for host code (symbolic) and device code (emits IR).

One evaluator serves both: compile-time values fold, symbolic sizes stay polynomials, and once a
device value is an operand the builder emits IR. What a library function means is looked up in
tables the dialect passes in; the evaluator itself only knows Python.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import libcst as cst

from transpile.frontend.builder import Builder, describe
from transpile.frontend.indexing import Indexer, device_view
from transpile.frontend.source import ParsedSource
from transpile.frontend.values import (
    Builtin,
    Env,
    Function,
    Gone,
    HostNumber,
    HostTensor,
    Known,
    Method,
    ModuleRef,
    NeedFact,
    Opaque,
    Scalar,
    Tile,
    TileOffset,
)
from transpile.ir import ir
from transpile.ir.diagnostics import KtError, error
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
MAX_INLINE_DEPTH = 24

BUILTINS = frozenset(
    "min max abs len range enumerate zip float int bool round sum tuple list isinstance print slice "
    "reversed sorted all any getattr str type divmod pow".split()
)


def device_number(x: Any) -> bool:
    """True for values whose arithmetic must be emitted."""
    return isinstance(x, (ir.Value, Scalar, Tile))


class Evaluator:
    """Evaluates expressions of one source file.

    ``on_device`` switches what unknown names and host tensors mean. ``library`` maps a known
    function's dotted name, and ``methods`` a method name, to ``f(evaluator, args, kwargs)``.
    """

    def __init__(self, source: ParsedSource, builder: Builder) -> None:
        self.source = source
        self.b = builder
        self.indexer = Indexer(builder)
        self.on_device = False
        self.depth = 0
        self.handlers: dict[type, Callable[[Any, Env], Any]] = {
            cst.Name: self._name,
            cst.Integer: lambda n, _: ast.literal_eval(n.value),
            cst.Float: lambda n, _: ast.literal_eval(n.value),
            cst.SimpleString: lambda n, _: ast.literal_eval(n.value),
            cst.ConcatenatedString: self._concatenated,
            cst.FormattedString: lambda n, _: "",
            cst.Tuple: lambda n, env: tuple(self._elements(n.elements, env)),
            cst.List: lambda n, env: list(self._elements(n.elements, env)),
            cst.Dict: self._dict,
            cst.Attribute: self._attribute,
            cst.Subscript: self._subscript,
            cst.BinaryOperation: self._binary,
            cst.UnaryOperation: self._unary,
            cst.BooleanOperation: self._boolean,
            cst.Comparison: self._comparison,
            cst.IfExp: self._ifexp,
            cst.Call: self._call,
            cst.Lambda: lambda n, env: Function(n, env, "<lambda>"),
            cst.Ellipsis: lambda n, _: Ellipsis,
            cst.ListComp: self._comprehension,
            cst.GeneratorExp: self._comprehension,
            cst.NamedExpr: self._named,
        }

    # -- entry -----------------------------------------------------------------------------

    def eval(self, node: cst.BaseExpression, env: Env) -> Any:
        """The value of an expression."""
        handler = self.handlers.get(type(node))
        if handler is None:
            return self.unsupported(node, f"{type(node).__name__} expression")
        saved = self.b.span
        self.b.span = self.source.span(node) or saved
        try:
            return handler(node, env)
        except KtError as exc:
            raise self._located(exc, node) from None
        finally:
            self.b.span = saved

    def _located(self, exc: KtError, node: cst.CSTNode) -> KtError:
        from dataclasses import replace

        span = self.source.span(node)
        if span is None or all(d.span for d in exc.diagnostics):
            return exc
        return KtError(*(d if d.span else replace(d, span=span) for d in exc.diagnostics))

    def unsupported(self, node: cst.CSTNode, what: str, remedy: str = "") -> Any:
        """Not understood: an opaque value on the host, a diagnostic on the device."""
        if not self.on_device:
            return Opaque(what)
        raise error(
            "KT0402",
            f"{what} in device code",
            self.source.span(node) or self.b.span,
            why="the device language has no such construct",
            remedy=remedy,
        )

    def fail(self, code: str, message: str, *, why: str = "", remedy: str = "") -> NoReturn:
        raise error(code, message, self.b.span, why=why, remedy=remedy)

    # -- names and literals ------------------------------------------------------------------

    def _name(self, node: cst.Name, env: Env) -> Any:
        name = node.value
        try:
            value = env.lookup(name)
        except KeyError:
            constants = {"True": True, "False": False, "None": None}
            if name in constants:
                return constants[name]
            if name in BUILTINS:
                return Builtin(name)
            if self.on_device:
                self.fail("KT0403", f"name '{name}' is not defined", remedy="check the spelling")
            return Opaque(f"name '{name}'")
        if isinstance(value, Gone) and self.on_device:
            self.fail("KT0404", f"'{name}' has no value here", why=value.why)
        return value

    def _concatenated(self, node: cst.ConcatenatedString, env: Env) -> Any:
        left, right = self.eval(node.left, env), self.eval(node.right, env)
        return str(left) + str(right)

    def _elements(self, elements: Sequence[Any], env: Env) -> list[Any]:
        out: list[Any] = []
        for element in elements:
            value = self.eval(element.value, env)
            if isinstance(element, cst.StarredElement):
                if not isinstance(value, (tuple, list)):
                    raise _StarOfUnknown(self, element, value).build()
                out.extend(value)
            else:
                out.append(value)
        return out

    def _dict(self, node: cst.Dict, env: Env) -> Any:
        out: dict[Any, Any] = {}
        for element in node.elements:
            if not isinstance(element, cst.DictElement):
                return self.unsupported(node, "dict unpacking")
            key = self.eval(element.key, env)
            if not isinstance(key, (str, int, bool, DType, tuple)):
                return self.unsupported(node, "dict with a computed key")
            out[key] = self.eval(element.value, env)
        return out

    def _named(self, node: cst.NamedExpr, env: Env) -> Any:
        value = self.eval(node.value, env)
        if isinstance(node.target, cst.Name):
            env.names[node.target.value] = value
        return value

    # -- attributes and subscripts ----------------------------------------------------------

    def _attribute(self, node: cst.Attribute, env: Env) -> Any:
        return self.attribute(self.eval(node.value, env), node.attr.value)

    def attribute(self, owner: Any, name: str) -> Any:
        """``owner.name``; the dialect's subclass adds what its objects have."""
        if isinstance(owner, ModuleRef):
            return self.module_member(owner, name)
        if isinstance(owner, Opaque):
            return Opaque(f"{owner.what}.{name}")
        return Method(owner, name)

    def module_member(self, module: ModuleRef, name: str) -> Any:
        return Known(f"{module.name}.{name}")

    def _subscript(self, node: cst.Subscript, env: Env) -> Any:
        owner = self.eval(node.value, env)
        entries = self.index_entries(node, env)
        return self.subscript(owner, entries)

    def index_entries(self, node: cst.Subscript, env: Env) -> list[Any]:
        """The evaluated index of a subscript, as a flat list."""
        entries: list[Any] = []
        for element in node.slice:
            part = element.slice
            if isinstance(part, cst.Slice):
                bounds = [
                    None if bound is None else self.eval(bound, env)
                    for bound in (part.lower, part.upper, part.step)
                ]
                entries.append(slice(*bounds))
                continue
            assert isinstance(part, cst.Index)
            value = self.eval(part.value, env)
            if part.star or (isinstance(value, (tuple, list)) and len(node.slice) == 1):
                entries.extend(value)
            else:
                entries.append(value)
        return entries

    def subscript(self, owner: Any, entries: list[Any]) -> Any:
        if isinstance(owner, HostTensor) and self.on_device:
            return self.load(owner, entries)
        if isinstance(owner, ir.Value):
            return device_view(self.b, owner, entries)
        if isinstance(owner, HostShape) and entries and isinstance(entries[0], (int, slice)):
            owner.require(entries[0])
        if isinstance(owner, (tuple, list, str)):
            if len(entries) == 1 and isinstance(entries[0], (int, slice)):
                try:
                    return owner[entries[0]]
                except (IndexError, TypeError):
                    self.fail("KT0405", f"index {entries[0]} is out of range of {len(owner)} items")
            return Opaque("element of a sequence at an unknown index")
        if isinstance(owner, dict):
            return owner.get(entries[0], Opaque("dict entry"))
        if isinstance(owner, HostTensor):
            return self.host_subscript(owner, entries)
        if isinstance(owner, Opaque):
            return Opaque(f"{owner.what}[...]")
        return self.fail("KT0405", f"{describe(owner)} cannot be subscripted")

    def load(self, tensor: HostTensor, entries: list[Any]) -> Any:
        """Read device memory; the dialect's evaluator overrides."""
        return self.fail("KT0402", "a load outside a kernel")

    def host_subscript(self, tensor: HostTensor, entries: list[Any]) -> Any:
        return Opaque("element of a host tensor")

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
            return self.b.arith(name, left, right)
        if isinstance(left, (Opaque, HostTensor)) or isinstance(right, (Opaque, HostTensor)):
            return UNKNOWN
        if isinstance(left, (tuple, list)) and isinstance(right, (tuple, list)):
            return self._compare_sequences(name, left, right)
        known = self._compare_known(name, fold, left, right)
        if known is None and self.on_device:
            return self.b.arith(name, left, right)
        return UNKNOWN if known is None else known

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

    def merge_host(self, a: Any, b: Any) -> Any:
        """What is known of a host value that is one of two."""
        if a is b or (type(a) is type(b) and isinstance(a, (int, Size, str, DType)) and a == b):
            return a
        if isinstance(a, (float, HostNumber)) and isinstance(b, (float, HostNumber)):
            return HostNumber(F32)
        if isinstance(a, HostTensor) and isinstance(b, HostTensor) and a.dtype == b.dtype:
            if a.shape is not None and a.shape == b.shape:
                strides = tuple(
                    x if x == y else None for x, y in zip(a.strides, b.strides, strict=True)
                )
                return HostTensor(a.dtype, a.shape, strides)
        return Opaque("a value that depends on a run-time condition")

    # -- comprehensions and calls --------------------------------------------------------------

    def _comprehension(self, node: cst.ListComp | cst.GeneratorExp, env: Env) -> Any:
        loop = node.for_in
        items = self.iterate(self.eval(loop.iter, env))
        if items is None or loop.inner_for_in is not None:
            return self.unsupported(node, "this comprehension")
        out: list[Any] = []
        for item in items:
            inner = Env(outer=env)
            self.bind(loop.target, item, inner)
            if all(self.truth(self.eval(test.test, inner)) for test in loop.ifs):
                out.append(self.eval(node.elt, inner))
        return out

    def iterate(self, value: Any) -> Sequence[Any] | None:
        """The items of a compile-time sequence, or None."""
        if isinstance(value, (tuple, list, range)):
            return list(value)
        if isinstance(value, dict):
            return list(value)
        return None

    def bind(self, target: cst.BaseExpression, value: Any, env: Env) -> None:
        """Assign to a name or a (nested) tuple of names."""
        if isinstance(target, cst.Name):
            self.bind_name(target.value, value, env)
            return
        if isinstance(target, (cst.Tuple, cst.List)):
            self._unpack(target, value, env)
            return
        self.unsupported(target, "this assignment target")

    def bind_name(self, name: str, value: Any, env: Env) -> None:
        inner = value.value if isinstance(value, Scalar) else value
        if isinstance(inner, ir.Value) and inner.name is None:
            inner.name = name
        env.names[name] = value

    def _unpack(self, target: cst.Tuple | cst.List, value: Any, env: Env) -> None:
        names = [element.value for element in target.elements]
        if isinstance(value, HostShape):
            value = value.unpacked(len(names))
        if isinstance(value, Opaque):
            value = [Opaque(f"part of {value.what}") for _ in names]
        if not isinstance(value, (tuple, list)):
            self.fail("KT0410", f"cannot unpack {describe(value)} into {len(names)} names")
        if len(value) != len(names):
            raise error(
                "KT0410",
                f"{len(value)} values for {len(names)} names",
                self.source.span(target) or self.b.span,
                why="a tensor's size has one entry per dimension of its signature",
                remedy="make the signature's rank and the unpacking agree",
            )
        for name, item in zip(names, value, strict=True):
            self.bind(name, item, env)

    def _call(self, node: cst.Call, env: Env) -> Any:
        func = self.eval(node.func, env)
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for arg in node.args:
            value = self.eval(arg.value, env)
            if arg.star == "*":
                if isinstance(value, HostShape):
                    value = value.unpacked(None)
                if not isinstance(value, (tuple, list)):
                    return self.unsupported(node, "unpacking an unknown sequence into arguments")
                args.extend(value)
            elif arg.star == "**":
                if not isinstance(value, dict):
                    return self.unsupported(node, "unpacking an unknown dict into arguments")
                kwargs.update(value)
            elif arg.keyword is not None:
                kwargs[arg.keyword.value] = value
            else:
                args.append(value)
        return self.call(func, args, kwargs, node)

    def call(self, func: Any, args: list[Any], kwargs: dict[str, Any], node: cst.CSTNode) -> Any:
        if isinstance(func, Function):
            if self.on_device:
                return self.inline(func, args, kwargs, node)
            return self.inline_on_host(func, args, kwargs, node)
        if isinstance(func, Opaque):
            return self.unsupported(node, f"a call of {func.what}")
        return self.call_known(func, args, kwargs, node)

    def call_known(
        self, func: Any, args: list[Any], kwargs: dict[str, Any], node: cst.CSTNode
    ) -> Any:
        return self.unsupported(node, f"a call of {describe(func)}")

    # -- inlining ----------------------------------------------------------------------------

    def inline(
        self, func: Function, args: list[Any], kwargs: dict[str, Any], node: cst.CSTNode
    ) -> Any:
        """Evaluate a source function's body on these arguments."""
        if self.depth >= MAX_INLINE_DEPTH:
            self.fail(
                "KT0411",
                f"'{func.name}' is recursive",
                why="device functions are inlined, so their calls must end at compile time",
                remedy="rewrite the recursion as a loop",
            )
        env = Env(outer=func.env)
        self._bind_arguments(func, args, kwargs, env)
        self.depth += 1
        try:
            if isinstance(func.node, cst.Lambda):
                return self.eval(func.node.body, env)
            return self.run_body(func, env)
        finally:
            self.depth -= 1

    def inline_on_host(
        self, func: Function, args: list[Any], kwargs: dict[str, Any], node: cst.CSTNode
    ) -> Any:
        """A host helper is followed as far as it is understood; it runs unchanged anyway."""
        try:
            return self.inline(func, args, kwargs, node)
        except KtError:
            return Opaque(f"the result of '{func.name}'")

    def run_body(self, func: Function, env: Env) -> Any:
        """Run a function's statements; a dialect's evaluator that knows statements overrides."""
        return Opaque(f"the result of '{func.name}'")

    def _bind_arguments(
        self, func: Function, args: list[Any], kwargs: dict[str, Any], env: Env
    ) -> None:
        params = func.node.params
        positional = [*params.posonly_params, *params.params]
        rest = list(args)
        for param in positional:
            name = param.name.value
            if rest:
                env.names[name] = rest.pop(0)
            elif name in kwargs:
                env.names[name] = kwargs.pop(name)
            elif param.default is not None:
                env.names[name] = self.eval(param.default, func.env)
            else:
                self.fail("KT0412", f"'{func.name}' needs an argument for '{name}'")
        for param in params.kwonly_params:
            name = param.name.value
            if name in kwargs:
                env.names[name] = kwargs.pop(name)
            elif param.default is not None:
                env.names[name] = self.eval(param.default, func.env)
            else:
                self.fail("KT0412", f"'{func.name}' needs an argument for '{name}'")
        if isinstance(params.star_arg, cst.Param):
            env.names[params.star_arg.name.value] = tuple(rest)
            rest = []
        if isinstance(params.star_kwarg, cst.Param):
            env.names[params.star_kwarg.name.value] = dict(kwargs)
            kwargs = {}
        if rest or kwargs:
            extra = next(iter(kwargs), f"{len(args)} positional")
            self.fail("KT0412", f"'{func.name}' does not take this argument ({extra})")


class HostShape(tuple[Any, ...]):
    """``x.size()`` of a tensor whose rank may not be known yet."""

    tensor: HostTensor

    @staticmethod
    def of(tensor: HostTensor) -> HostShape:
        dims = () if tensor.shape is None else tuple(simplified(d) for d in tensor.shape)
        shape = HostShape(dims)
        shape.tensor = tensor
        return shape

    def require(self, index: int | slice) -> None:
        """An entry is read: the rank must be known, and is a guess until something fixes it."""
        tensor = self.tensor
        name = tensor.origin or tensor.param or "?"
        if not isinstance(index, int):
            if tensor.shape is None:
                raise NeedFact(name)
            return
        least = index + 1 if index >= 0 else -index
        if tensor.shape is None or (tensor.guessed and least > len(self)):
            raise NeedFact(name, rank=least if least > 2 else None, at_least=True)

    def unpacked(self, count: int | None) -> tuple[Any, ...]:
        """The entries; ``count`` is the number of names, a fact about the rank."""
        if self.tensor.shape is None:
            raise NeedFact(self.tensor.origin or self.tensor.param or "?", rank=count)
        if self.tensor.guessed and count is not None and count != len(self):
            raise NeedFact(self.tensor.param or "?", rank=count)
        return tuple(self)


class _StarOfUnknown:
    def __init__(self, evaluator: Evaluator, element: Any, value: Any) -> None:
        self.evaluator, self.element, self.value = evaluator, element, value

    def build(self) -> KtError:
        return error(
            "KT0410",
            f"cannot unpack {describe(self.value)}",
            self.evaluator.source.span(self.element) or self.evaluator.b.span,
        )


def simplified(x: Any) -> Any:
    """A constant Size as a plain int."""
    if isinstance(x, Size) and (number := x.as_int()) is not None:
        return number
    return x


def has_unknown(x: Any) -> bool:
    if isinstance(x, (tuple, list)):
        return any(has_unknown(i) for i in x)
    return isinstance(x, (Opaque, HostNumber, Size, Scalar, ir.Value, HostTensor, Gone))


def compare_sizes(name: str, left: Size, right: Size) -> bool | None:
    """Compile-time comparison of symbolic integers, None when it is not decided."""
    difference = left - right
    number = difference.as_int()
    if number is not None:
        truth = COMPARE_INT[name](number, 0)
        return bool(truth)
    if name in ("lt", "ge") and difference.non_negative:
        return name == "ge"
    if name in ("gt", "le") and (-difference).non_negative:
        return name == "le"
    return None


COMPARE_INT: dict[str, Callable[[int, int], bool]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}
