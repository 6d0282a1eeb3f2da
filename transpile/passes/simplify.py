"""Clean-up that never changes a number: dead code, constants, casts and shape changes undone.

Common subexpressions are left alone: a repeated ``x[:, None]`` reads better than a name for it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

from transpile.ir import ir
from transpile.ir.dtypes import DType, StandIn
from transpile.ir.ir import Block, Kernel, Op, TileType, Value
from transpile.ir.ops import Number
from transpile.ir.sizes import Size
from transpile.ir.walk import map_phases, rebuild
from transpile.passes.dead import without_dead
from transpile.passes.fold import convert, fold


def simplify(kernel: Kernel) -> Kernel:
    """The kernel with less in it and the same results, bit for bit."""
    return map_phases(kernel, lambda phase: simplify_block(phase.body))


def simplify_block(body: Block) -> Block:
    """A phase's body simplified until nothing changes."""
    while True:
        simplifier = _Simplifier()
        after = without_dead(simplifier.block(body))
        if not simplifier.changed and after is body:
            return body
        body = after


Rewritten = Op | list[Op] | Value | None
"""What a rule makes of an operation: a value that stands for its result, operations instead of it,
or None for nothing."""


class _Simplifier:
    """One pass in program order. ``env`` maps removed values to those that stand for them."""

    def __init__(self) -> None:
        self.env: dict[Value, Value] = {}
        self.makers: dict[Value, Op] = {}
        self.changed = False

    def block(self, block: Block) -> Block:
        ops: list[Op] = []
        for op in block.ops:
            ops.extend(self._op(op))
        yields = tuple(self._at(y) for y in block.yields)
        same = yields == block.yields and len(ops) == len(block.ops)
        if same and all(a is b for a, b in zip(ops, block.ops, strict=True)):
            return block
        return Block(block.params, ops, yields)

    def _at(self, value: Value) -> Value:
        return self.env.get(value, value)

    def _op(self, op: Op) -> list[Op]:
        """What stands for an operation: nothing, itself, another one, or a branch's body."""
        if isinstance(op, ir.If):
            taken = self._branch(op)
            if taken is not None:
                return taken
        if isinstance(op, (ir.ForTile, ir.ForRange)):
            self._invariants(op)
        new = rebuild(op, self._at, self.block)
        self.changed |= new is not op
        rule = _RULES.get(type(new))
        made = rule(self, new) if rule is not None else None
        if isinstance(made, Value):
            self._replace(new.result, made)
            return []
        self.changed |= made is not None
        ops = [new] if made is None else made if isinstance(made, list) else [made]
        for op in ops:
            self.makers.update((result, op) for result in op.results)
        return ops

    def _replace(self, old: Value, new: Value) -> None:
        self.env[old] = new
        self.changed = True
        if new.name is None and new in self.makers:
            new.name = old.name

    def _branch(self, op: ir.If) -> list[Op] | None:
        """The branch that a constant condition takes."""
        cond = self.makers.get(self._at(op.cond))
        if not isinstance(cond, ir.Const):
            return None
        block = self.block(op.then if cond.value else op.orelse)
        for result, value in zip(op.results, block.yields, strict=True):
            self._replace(result, value)
        self.changed = True
        return block.ops

    def _invariants(self, op: ir.ForTile | ir.ForRange) -> None:
        """Carried values that each iteration hands on unchanged are their initial ones."""
        carried = zip(op.body.params[1:], op.body.yields, op.inits, op.results, strict=True)
        for param, after, init, result in carried:
            if after is param:
                for value in (param, result):
                    if value not in self.env:
                        self.env[value] = self._at(init)

    # -- helpers of the rules ------------------------------------------------------------------

    def maker(self, value: Value) -> Op | None:
        return self.makers.get(value)

    def constant(self, value: Value) -> Number | None:
        """The number that all lanes of a value hold, if it is a constant or filled with one."""
        op = self.makers.get(value)
        if isinstance(op, ir.Full):
            op = self.makers.get(op.value)
        return op.value if isinstance(op, ir.Const) else None


# -- rules -------------------------------------------------------------------------------------


def _elementwise(s: _Simplifier, op: ir.Elementwise) -> Rewritten:
    numbers = [s.constant(arg) for arg in op.args]
    known = [n for n in numbers if n is not None]
    if len(known) == len(numbers):
        value = fold(op.name, known, op.args[-1].dtype, op.result.dtype)
        if value is not None:
            return _filled(op.result, value, op.span)
    chosen = _neutral(op, numbers)
    if chosen is not None and chosen.type == op.result.type:
        return chosen
    args = _unspread(s, op)
    return dataclasses.replace(op, args=args) if args != op.args else None


def _filled(result: Value, number: Number, span: ir.Span | None) -> Rewritten:
    """Operations that make ``result`` hold one number."""
    if not result.shape:
        return ir.Const(number, results=(result,), span=span)
    scalar = Value(TileType(result.dtype))
    const = ir.Const(number, results=(scalar,), span=span)
    return [const, ir.Full(scalar, results=(result,), span=span)]


def _neutral(op: ir.Elementwise, numbers: Sequence[Number | None]) -> Value | None:
    """The operand that the result equals bit for bit."""
    integer = op.result.dtype.is_int
    args = op.args
    if op.name == "where":
        return None if numbers[0] is None else args[1 if numbers[0] else 2]
    if op.name in ("mul", "add") and numbers[0] == _NEUTRAL[op.name] and _exact(op.name, integer):
        return args[1]
    right = len(args) == 2 and numbers[1] is not None and numbers[1] == _NEUTRAL.get(op.name)
    positive = right and math.copysign(1, numbers[1] or 0) > 0  # 0 - -0.0 is no neutral operation
    return args[0] if positive and _exact(op.name, integer) else None


_NEUTRAL: Mapping[str, int] = {"add": 0, "sub": 0, "mul": 1, "div": 1, "floordiv": 1}


def _exact(name: str, integer: bool) -> bool:
    """``x + 0`` turns -0.0 into 0.0; ``x // 1`` of a float rounds."""
    return integer or name in ("sub", "mul", "div")


def _unspread(s: _Simplifier, op: ir.Elementwise) -> tuple[Value, ...]:
    """Operands without a broadcast that another operand makes needless."""
    args = list(op.args)
    for position, arg in enumerate(args):
        maker = s.maker(arg)
        if not isinstance(maker, (ir.Broadcast, ir.Full)) or arg.name is not None:
            continue
        others = [a for p, a in enumerate(args) if p != position] + [maker.value]
        if _covers(others, op.result.shape):
            args[position] = maker.value
    return tuple(args)


def _covers(args: Sequence[Value], shape: tuple[Size, ...]) -> bool:
    """Whether each axis of the shape is some operand's."""
    ranked = [a.shape for a in args if a.shape]
    return all(
        size.as_int() == 1 or any(r[axis] == size for r in ranked)
        for axis, size in enumerate(shape)
    ) and bool(ranked)


def _cast(s: _Simplifier, op: ir.Cast) -> Rewritten:
    source, target = op.value.dtype, op.result.dtype
    if source == target:
        return op.value
    if op.bitcast:
        return None
    number = s.constant(op.value)
    if number is not None and not op.result.shape:
        value = convert(number, target)
        return None if value is None else ir.Const(value, results=op.results, span=op.span)
    inner = s.maker(op.value)
    if isinstance(inner, ir.Cast) and not inner.bitcast:
        origin = inner.value.dtype
        if widens(origin, source) and _composes(origin, source, target):
            if origin == target:
                return inner.value
            return dataclasses.replace(op, value=inner.value)
    return None


_MANTISSA = {"f8e5m2": 2, "f8e4m3": 3, "bf16": 7, "f16": 10, "f32": 23, "f64": 52}
_EXPONENT = {"f8e5m2": 5, "f8e4m3": 4, "bf16": 8, "f16": 5, "f32": 8, "f64": 11}


def narrowest(dtype: DType) -> DType:
    """The element type that the code has to be right for."""
    return dtype.of if isinstance(dtype, StandIn) and dtype.of is not None else dtype


def widens(source: DType, target: DType) -> bool:
    """Whether every value of ``source`` is one of ``target``, unchanged."""
    source, target = narrowest(source), narrowest(target)
    if source.is_bool or source == target:
        return True
    if source.is_int and target.is_int:
        grows = target.bits > source.bits
        return grows and (target.signed or not source.signed)
    if source.is_int and target.is_float and target.name in _MANTISSA:
        return source.bits - source.signed <= _MANTISSA[target.name] + 1 and target.bits > 8
    if source.is_float and target.is_float and {source.name, target.name} <= _MANTISSA.keys():
        names = source.name, target.name
        return all(table[names[0]] <= table[names[1]] for table in (_MANTISSA, _EXPONENT))
    return False


def _composes(origin: DType, middle: DType, target: DType) -> bool:
    """Whether ``origin -> target`` is the cast that goes through a wider ``middle``.

    Integers that do not fit wrap around between integers, but are undefined from floats.
    """
    return not (origin.is_int and middle.is_float and target.is_int)


def _reshape(s: _Simplifier, op: ir.Reshape) -> Rewritten:
    if op.value.shape == op.result.shape:
        return op.value
    inner = s.maker(op.value)
    if isinstance(inner, ir.Reshape) and op.value.name is None:
        if inner.value.shape == op.result.shape:
            return inner.value
        return dataclasses.replace(op, value=inner.value)
    if isinstance(inner, ir.Full):
        return ir.Full(inner.value, results=op.results, span=op.span)
    return None


def _broadcast(s: _Simplifier, op: ir.Broadcast) -> Rewritten:
    if op.value.shape == op.result.shape:
        return op.value
    inner = s.maker(op.value)
    if isinstance(inner, ir.Full):
        return ir.Full(inner.value, results=op.results, span=op.span)
    if isinstance(inner, ir.Broadcast) and op.value.name is None:
        return dataclasses.replace(op, value=inner.value)
    return None


def _permute(s: _Simplifier, op: ir.Permute) -> Rewritten:
    if op.order == tuple(range(len(op.order))):
        return op.value
    inner = s.maker(op.value)
    if isinstance(inner, ir.Permute) and op.value.name is None:
        order = tuple(inner.order[axis] for axis in op.order)
        if order == tuple(range(len(order))):
            return inner.value
        return dataclasses.replace(op, value=inner.value, order=order)
    if isinstance(inner, ir.Full):
        return ir.Full(inner.value, results=op.results, span=op.span)
    return None


_RULES: dict[type[Op], Callable[..., Rewritten]] = {
    ir.Elementwise: _elementwise, ir.Cast: _cast, ir.Reshape: _reshape,
    ir.Broadcast: _broadcast, ir.Permute: _permute,
}  # fmt: skip
