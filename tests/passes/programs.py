"""Random small tile programs for property tests, and ways to run them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st

from tests.ir.builder import KernelBuilder
from transpile.ir import ir
from transpile.ir.dtypes import BOOL, F16, F32, I32
from transpile.ir.interpreter import Claims, run_phase
from transpile.ir.ir import Kernel, Value
from transpile.ir.sizes import Size, Sym
from transpile.ir.walk import walk_kernel

NEG_INF = float("-inf")

_UNARY = ["neg", "abs", "sigmoid", "tanh", "cos", "floor", "sign"]
_UNARY_ANY = ["exp", "log", "rsqrt", "sqrt"]
_BINARY = ["add", "sub", "mul", "maximum", "minimum"]
_REDUCTIONS = {"sum": 0, "max": NEG_INF, "min": float("inf"), "prod": 1}


@dataclass
class Program:
    """A kernel with one launch's sizes and block sizes."""

    kernel: Kernel
    sizes: dict[Sym, int]
    blocks: dict[Sym, int]

    def run(self, kernel: Kernel | None = None, **modes: Any) -> torch.Tensor:
        """``out`` after the phase, from fixed inputs."""
        kernel = kernel or self.kernel
        generator = torch.Generator().manual_seed(7)
        tensors = {}
        for tensor in self.kernel.tensors:
            shape = [size.evaluate(self.sizes) for size in tensor.shape]
            whole = torch.randint(-3, 4, shape, generator=generator)
            tensors[tensor.name] = whole.to(getattr(torch, tensor.dtype.torch))
        run_phase(kernel, 0, tensors, {}, self.sizes, self.blocks, **modes)
        return tensors["out"]

    def __repr__(self) -> str:
        from transpile.ir.printer import format_kernel

        return f"{format_kernel(self.kernel)}\nsizes {self.sizes} blocks {self.blocks}"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))


class Writer:
    """Writes operations on values of shape [rows, columns] at random.

    ``columns`` is a tile's block or a size axis (``column_tile`` None); ``finite`` keeps out what
    can give infinities, which dots are not defined for.
    """

    def __init__(self, draw: Callable[[Any], Any], finite: bool) -> None:
        self.draw = draw
        self.finite = finite
        self.b = KernelBuilder()
        self.row_tile: Value | None = None
        self.column_tile: Value | None = None

    def pick(self, items: list[Any]) -> Any:
        return self.draw(st.sampled_from(items))

    def guards(self, value: Value) -> list[tuple[int, Value | None]]:
        """All guards that apply to a value of shape [rows or 1, columns or 1]."""
        tiles = [self.row_tile, self.column_tile]
        return [(d, t) for d, t in enumerate(tiles) if value.shape[d].as_int() != 1]

    def masked(self, value: Value, fill: float, dim: int) -> Value:
        """The value with every lane outside along ``dim`` reset."""
        guards = [g for g in self.guards(value) if g[0] == dim or self.draw(st.booleans())]
        return self.b.mask(value, fill, *guards)

    def step(self, pool: list[Value]) -> Value:
        """One random operation on f32 values of the pool (all broadcastable to each other)."""
        kinds = ["unary", "binary", "binary", "constant", "compare", "cast", "reduce", "index"]
        kind = self.pick([*kinds, "mask", "reshape", *(["dot"] * 3 if self.finite else [])])
        value: Value = self.pick(pool)
        made: Value = getattr(self, f"_{kind}")(value, pool)
        return made

    def _unary(self, value: Value, pool: list[Value]) -> Value:
        return self.b.ew(self.pick(_UNARY if self.finite else _UNARY + _UNARY_ANY), value)

    def _binary(self, value: Value, pool: list[Value]) -> Value:
        names = _BINARY if self.finite else [*_BINARY, "div"]
        return self.b.ew(self.pick(names), value, self.pick(pool))

    def _constant(self, value: Value, pool: list[Value]) -> Value:
        constant = self.b.const(self.pick([0.0, 1.0, -2.0, 0.5]))
        args = (value, constant) if self.draw(st.booleans()) else (constant, value)
        return self.b.ew(self.pick(_BINARY), *args)

    def _compare(self, value: Value, pool: list[Value]) -> Value:
        limit = self.b.const(self.pick([-1.0, 0.0, 1.0]))
        cond = self.b.ew(self.pick(["lt", "ge", "eq", "ne"]), value, limit)
        other = self.b.const(self.pick([0.0, 1.0]))
        args = (value, other) if self.draw(st.booleans()) else (other, value)
        return self.b.ew("where", cond, *args)

    def _cast(self, value: Value, pool: list[Value]) -> Value:
        dtype = self.pick([F16, BOOL, I32] if self.finite else [F16, BOOL])
        return self.b.cast(self.b.cast(value, dtype), F32)

    def _reduce(self, value: Value, pool: list[Value]) -> Value:
        dim = self.pick([0, 1])
        if value.shape[dim].as_int() == 1:
            return value
        name = self.pick(["sum", "max", "min"] if self.finite else list(_REDUCTIONS))
        return self.b.reduce(name, self.masked(value, _REDUCTIONS[name], dim), dim, keepdim=True)

    def _index(self, value: Value, pool: list[Value]) -> Value:
        """``where(tile.index < n, value, 0)``, the source's own mask."""
        tile = self.column_tile
        if tile is None or value.shape[1].as_int() == 1:
            return value
        limit = self.b.dim("N")
        if self.draw(st.booleans()):
            limit = limit - self.draw(st.integers(-2, 2))
        index = self.b.reshape(self.b.index(tile), 1, tile.type.block)  # type: ignore[union-attr]
        cond = self.b.ew("lt", index, self.b.size(limit))
        return self.b.ew("where", cond, value, self.b.const(self.pick([0.0, 1.0])))

    def _mask(self, value: Value, pool: list[Value]) -> Value:
        guards = self.guards(value)
        if not guards:
            return value
        fill = self.pick([0.0, 1.0] if self.finite else [0.0, 1.0, NEG_INF])
        return self.b.mask(value, fill, self.pick(guards))

    def _reshape(self, value: Value, pool: list[Value]) -> Value:
        """Through a permutation and a reshape with an added axis, and back."""
        turned = self.b.permute(value, 1, 0)
        shape = turned.shape
        wide = self.b.reshape(turned, shape[0], 1, shape[1])
        return self.b.permute(self.b.reshape(wide, *shape), 1, 0)

    def _dot(self, value: Value, pool: list[Value]) -> Value:
        """The row sums of ``lhs @ rhs^T`` over the columns."""
        full = [v for v in pool if v.shape == pool[0].shape]
        lhs, rhs = self.masked(self.pick(full), 0, 1), self.masked(self.pick(full), 0, 1)
        product = self.b.dot(lhs, self.b.permute(rhs, 1, 0))
        guards = [(0, self.row_tile), (1, self.row_tile)]
        dim = self.pick([0, 1])
        chosen = [g for g in guards if self.draw(st.booleans()) or g[0] == dim]
        total = self.b.reduce("sum", self.b.mask(product, 0, *chosen), dim, keepdim=True)
        return total if dim == 1 else self.b.permute(total, 1, 0)


@st.composite
def programs(
    draw: Callable[[Any], Any], finite: bool | None = None, columns: str | None = None
) -> Program:
    """Programs that load x and y, compute, and store a [rows, columns] result to ``out``.

    ``columns``: the second axis is a grid "tile", a whole "slice", or walked by a "loop".
    """
    if finite is None:
        finite = draw(st.booleans())
    w = Writer(draw, finite)
    b = w.b
    m = b.dim("M")
    n = draw(st.sampled_from([b.dim("N"), Size.of(3), Size.of(4), Size.of(8)]))
    if draw(st.booleans()):
        b.facts[Sym("N", "dim")] = 4
    bm, bn = b.block("BLOCK_M"), b.block("BLOCK_N")
    x, y, out = (b.tensor(name, F32, m, n) for name in ("x", "y", "out"))
    kind = columns or draw(st.sampled_from(["tile", "slice", "loop"]))
    axes = {"tile_m": (bm, m)} | ({"tile_n": (bn, n)} if kind == "tile" else {})
    with b.grid(**axes) as tiles:
        w.row_tile = tiles[0]
        if kind == "loop":
            _loop(w, bm, bn, n, x, y, out)
        else:
            w.column_tile = tiles[1] if kind == "tile" else None
            at = (tiles[0], w.column_tile if kind == "tile" else slice(None))
            b.store(out, at, _body(w, [b.load(x, *at), b.load(y, *at)]))
    blocks = {bm: draw(st.sampled_from([1, 2, 4])), bn: draw(st.sampled_from([1, 2, 4]))}
    multiple = b.facts.get(Sym("N", "dim"), 1)
    sizes = {
        Sym("M", "dim"): draw(st.integers(1, 7)),
        Sym("N", "dim"): draw(st.integers(1, 7 // multiple)) * multiple,
    }
    return Program(b.build(), sizes, blocks)


def _body(w: Writer, pool: list[Value]) -> Value:
    """A random chain; its result has the full shape of the first value."""
    whole = pool[0]
    for _ in range(w.draw(st.integers(1, 6))):
        pool.append(w.step(pool))
    result = pool[-1]
    return result if result.shape == whole.shape else w.b.ew("add", pool[0], result)


def _loop(w: Writer, bm: Sym, bn: Sym, n: Size, x: ir.Tensor, y: ir.Tensor, out: ir.Tensor) -> None:
    """A loop over column tiles with carried values, then a second loop that uses them."""
    b, rows = w.b, w.row_tile
    assert rows is not None
    whole = b.full(w.pick([0.0, 1.0]), F32, bm, bn)
    per_row = b.full(w.pick([0.0, 1.0]), F32, bm, 1)
    with b.for_tile(bn, b.const(0), b.size(n), whole, per_row) as loop:
        w.column_tile = loop.var
        acc, row = loop.carried
        value = _body(w, [b.load(x, rows, loop.var), b.load(y, rows, loop.var), row])
        name = w.pick(["sum", "max"])
        reduced = b.reduce(name, w.masked(value, _REDUCTIONS[name], 1), 1, keepdim=True)
        safe = b.mask(value, 0, (1, loop.var))
        loop.yields = (b.ew("add", acc, safe), b.ew(w.pick(_BINARY), row, reduced))
    acc, row = loop.results
    total = b.reduce("sum", acc, 1, keepdim=True)
    with b.for_tile(bn, b.const(0), b.size(n)) as second:
        w.column_tile = second.var
        value = _body(w, [b.load(x, rows, second.var), total, row])
        b.store(out, (rows, second.var), value)


# -- whole-program mutations -------------------------------------------------------------------


def count_guards(kernel: Kernel) -> int:
    """Guards of all masks."""
    return sum(len(op.guards) for op in walk_kernel(kernel) if isinstance(op, ir.Mask))


def agree(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal up to the order of summation."""
    return torch.allclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True)


__all__ = ["Claims", "Program", "agree", "count_guards", "programs"]
