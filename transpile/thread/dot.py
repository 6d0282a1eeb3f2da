"""Matrix products: accumulators, loops over matrices, and products without matrices.

A product accumulates where its accumulator is kept: in the variable that a loop carries, if nothing
else reads it. ``acc * factor`` as an accumulator scales that variable in place first.
"""

from __future__ import annotations

from collections.abc import Callable

from transpile.ir import ir
from transpile.ir.dtypes import DType
from transpile.ir.walk import operands, walk
from transpile.thread.context import Lowering, Tile
from transpile.thread.control import computed_there
from transpile.thread.dot_plan import Operand, Product, Staged
from transpile.thread.dot_stage import stage
from transpile.thread.dot_threads import looped, summed
from transpile.thread.exchange import key_of
from transpile.thread.ir import (
    Assign,
    Body,
    Const,
    Convert,
    Element,
    Expr,
    FragmentLoad,
    FragmentShape,
    Let,
    Mma,
    Var,
    add,
    integer,
    mul,
)
from transpile.thread.layout import Digit, Digits, Layout, thread_position
from transpile.thread.named import several
from transpile.thread.nests import Control, Env, Held


def dot(low: Lowering, op: ir.Dot) -> None:
    """``acc + lhs @ rhs``."""
    product = low.plan.products.products[op]
    if product.grid is None:
        _by_threads(low, product)
        return
    lhs = None if product.lhs.staged else _resident(low, product.lhs)
    acc = _accumulator(low, product, _shape(low, "acc"))
    buffers = stage(low, product)
    multiply = _Multiply(low, product, acc, lhs, buffers)
    keys = frozenset(key_of(s.buffer) for s in buffers.values())
    low.scope.add(Control(multiply.body, reads=keys))
    tile = Tile(acc.layout, acc.dtype, acc.read, (acc,), acc)
    low.bind(op.result, _converted(low, tile, op.result))


def _converted(low: Lowering, tile: Tile, value: ir.Value) -> Tile:
    if tile.dtype == value.dtype:
        return tile
    return _define(low, tile, tile.layout, value.dtype, value.name, "product")


def _define(
    low: Lowering, tile: Tile, layout: Layout, dtype: DType, name: str | None, hint: str
) -> Tile:
    """The tile as a value of its own, in another dtype if need be."""

    def compute(env: Env) -> Expr:
        return _cast(tile.read(env), dtype)

    return low.define(layout, dtype, compute, [tile], name=name, hint=hint)


def _cast(value: Expr, dtype: DType) -> Expr:
    return value if value.dtype == dtype else Convert(value, dtype)


# -- operands and accumulators in registers ------------------------------------------------------


def _resident(low: Lowering, operand: Operand) -> Held:
    """The left operand as matrices in registers."""
    layout = low.plan.of(operand.value)
    tile = low.tile(operand.value, layout)
    held = tile.held
    if tile.dtype != operand.dtype or held is None or held.layout != layout:
        tile = _define(low, tile, layout, operand.dtype, operand.value.name, "lhs")
        held = tile.held
    assert held is not None
    _make_fragment(low, held, _shape(low, operand.side))
    low.settle(tile)
    return held


def _shape(low: Lowering, side: str) -> FragmentShape:
    unit = low.plan.products.unit
    assert unit is not None
    return {"lhs": unit.lhs, "rhs": unit.rhs, "acc": unit.acc}[side].shape


def _make_fragment(low: Lowering, held: Held, shape: FragmentShape) -> None:
    held.fragment = shape
    if held.var is not None:
        held.var.fragment = shape


def _accumulator(low: Lowering, product: Product, shape: FragmentShape | None) -> Held:
    """The variable that the product is added to, holding what it is added to."""
    op = product.op
    layout = low.plan.of(op.result)
    tile = None if op.acc is None else low.tile(op.acc, layout)
    if op.acc is not None and tile is not None and op.acc.dtype == op.acc_dtype:
        held = _own(low, op, op.acc, layout) or _scaled(low, op, op.acc, tile, layout)
        if held is not None:
            if shape is not None:
                _make_fragment(low, held, shape)
            return held
    held = Held(layout, op.acc_dtype, op.result.name, _hint(low, op), fragment=shape)
    let = held.keep(layout.registers)
    if tile is None or not tile.sources:
        zero = Const(0.0 if op.acc_dtype.is_float else 0, op.acc_dtype)
        value = zero if tile is None else tile.read({})
        let.value = _cast(value, op.acc_dtype)
        low.scope.add(Control(lambda: [let]))
        return held
    low.settle(tile)
    low.scope.add(Control(lambda: [let]))
    _overwrite(low, held, tile)
    return held


def _hint(low: Lowering, op: ir.Dot) -> str:
    """What a product without a name is called: after the value that is computed from it."""
    value = op.result
    for user in walk(low.phase.body):
        if value in operands(user) and user.results:
            value = user.result
            if value.name is not None:
                return f"{value.name}_acc"
    return "acc"


def _own(low: Lowering, op: ir.Dot, acc: ir.Value, layout: Layout) -> Held | None:
    """The variable of a value that nothing but the product reads."""
    products = low.plan.products
    if products.uses.get(acc) != 1 or products.homes[acc] is not products.homes[op.result]:
        return None
    tile = low.tiles.get(acc)
    held = None if tile is None else tile.held
    if held is None or held.var is None or held.item is not None or held.layout != layout:
        return None
    return held


def _scaled(low: Lowering, op: ir.Dot, acc: ir.Value, tile: Tile, layout: Layout) -> Held | None:
    """The variable that the accumulator is computed from element by element, set to it."""
    products = low.plan.products
    maker = products.makers.get(acc)
    if products.uses.get(acc) != 1 or not isinstance(maker, ir.Elementwise):
        return None
    for arg in maker.args:
        held = _own(low, op, arg, layout) if arg.shape == acc.shape else None
        if held is not None and held.dtype == tile.dtype:
            low.place(tile)
            if not computed_there(low, held, tile, []):
                _overwrite(low, held, tile)
            return held
    return None


def _overwrite(low: Lowering, held: Held, tile: Tile) -> None:
    def emit(env: Env) -> Body:
        return [Assign(held.entry(env), _cast(tile.read(env), held.dtype))]

    low.effect(held.layout, emit, [tile], clobbers=held)


# -- by matrices ---------------------------------------------------------------------------------


class _Multiply:
    """The loops over matrices: over the depth, for each step the left operand's, for each of the
    right one's the products with them."""

    def __init__(
        self,
        low: Lowering,
        product: Product,
        acc: Held,
        lhs: Held | None,
        buffers: dict[str, Staged],
    ) -> None:
        self.low, self.product, self.acc, self.lhs = low, product, acc, lhs
        self.buffers = buffers
        unit = low.plan.products.unit
        assert unit is not None
        self.unit = unit
        self.rows, self.cols = acc.layout.axes[-2:]
        self.batch: Digits = acc.layout.axes[0] if len(acc.layout.axes) == 3 else ()
        self.depth = _registers(lhs.layout.axes[-1]) if lhs is not None else ()

    def body(self) -> Body:
        """All of it."""
        steps = self.product.k // self.unit.k
        digit = self.depth[0] if self.depth else None

        def step(env: Env, k: Expr) -> Body:
            return self._step({**env, digit: k} if digit else env, k)

        return self._batches(lambda env: looped("kk", steps, lambda k: step(env, k)))

    def _batches(self, inner: Callable[[Env], Body]) -> Body:
        digits = _registers(self.batch)
        if not digits:
            return inner({})
        return looped("b", digits[0].count, lambda b: inner({digits[0]: b}))

    def _step(self, env: Env, k: Expr) -> Body:
        row, col = _tiles(self.rows), _tiles(self.cols)
        many = row[0].count if row else 1
        lhs: Callable[[Expr], Element]
        body: Body = []
        if self.lhs is not None:
            held = self.lhs
            lhs = lambda i: _matrix(held, {**env, **_at(row, i)})  # noqa: E731
        else:
            array = self._array("lhs", many)
            lhs = lambda i: Element(array, (i,) if several(many) else ())  # noqa: E731
            body.append(Let(array))
            body += looped(
                "i", many, lambda i: [self._load("lhs", lhs(i), {**env, **_at(row, i)}, k)]
            )

        def column(j: Expr) -> Body:
            place = {**env, **_at(col, j)}
            rhs = Element(self._array("rhs", 1), ())
            return [
                Let(rhs.array),
                self._load("rhs", rhs, place, k),
                *looped("i", many, lambda i: [self._mma({**place, **_at(row, i)}, lhs(i), rhs)]),
            ]

        return body + looped("j", col[0].count if col else 1, column)

    def _mma(self, env: Env, lhs: Element, rhs: Element) -> Mma:
        target = _matrix(self.acc, env)
        return Mma(target, lhs, rhs, target, span=self.product.op.span)

    def _array(self, side: str, count: int) -> Var:
        operand = self.product.lhs if side == "lhs" else self.product.rhs
        shape = _shape(self.low, side)
        name = self.buffers[side].name
        dims = (count,) if several(count) else ()
        return Var(f"{name}_frag", operand.dtype, dims, shape.width, shape)

    def _load(self, side: str, target: Element, env: Env, k: Expr) -> FragmentLoad:
        """The matrix of an operand at a step of the depth, for a row or column of the result."""
        staged = self.buffers[side]
        digits = self.rows if side == "lhs" else self.cols
        parts = self.unit.acc.rows if side == "lhs" else self.unit.acc.cols
        along = _origin(self.low, digits[: len(digits) - len(parts)], env)
        depth = mul(k, self.unit.k)
        place = (along, depth) if side == "lhs" else (depth, along)
        if staged.transposed:
            place = place[::-1]
        batch = tuple(env[d] for d in _registers(self.batch))
        lead = (*staged.index, *batch)
        buffer = staged.buffer
        stride = integer(buffer.strides[-2])
        return FragmentLoad(target, buffer, (*lead, *place), stride, staged.transposed)


def _registers(digits: Digits) -> Digits:
    return tuple(d for d in digits if not d.of_thread and not d.vector)


_tiles = _registers


def _at(digits: Digits, index: Expr) -> dict[Digit, Expr]:
    return {digits[0]: index} if digits else {}


def _origin(low: Lowering, digits: Digits, env: Env) -> Expr:
    """Position of a matrix: that of its first element."""
    threads = thread_position(digits, low.plan.threads, low.plan.simd)
    registers = [mul(env[d], d.weight) for d in digits if not d.of_thread]
    return add(threads, *registers)


def _matrix(held: Held, env: Env) -> Element:
    whole = held.whole(env)
    assert isinstance(whole, Element)
    return whole


# -- by threads ----------------------------------------------------------------------------------


def _by_threads(low: Lowering, product: Product) -> None:
    """Each thread adds up its elements of the result from the staged operands."""
    acc = _accumulator(low, product, None)
    buffers = stage(low, product)
    keys = frozenset(key_of(s.buffer) for s in buffers.values())
    low.scope.add(Control(lambda: summed(low, product, acc, buffers), reads=keys))
    tile = Tile(acc.layout, acc.dtype, acc.read, (acc,), acc)
    low.bind(product.op.result, _converted(low, tile, product.op.result))
