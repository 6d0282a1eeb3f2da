"""Executes the statements of a thread IR kernel on numpy arrays, one entry per thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from transpile.ir import ir as tile
from transpile.ir.dtypes import DType
from transpile.ir.ops import Number
from transpile.ir.sizes import Size, Sym
from transpile.thread import ir, numerics
from transpile.thread.interpreter import ThreadError
from transpile.thread.ir import Body, Element, Expr, Kernel, Stmt, Var
from transpile.thread.orders import Memory, Order, share_traces
from transpile.thread.printer import format_stmt
from transpile.thread.walk import walk

_COMBINE = {
    "sum": "add", "prod": "mul", "max": "maximum", "min": "minimum", "any": "or", "all": "and",
    "xor_sum": "xor",
}  # fmt: skip
_LOGIC = {"land": "and", "lor": "or", "lnot": "not"}


class Machine:
    """State of a launch. ``values`` has, per variable, an array whose last axis is the thread (of
    all groups); before it come the array's dimensions, then the vector's components."""

    def __init__(
        self,
        kernel: Kernel,
        tensors: Mapping[str, np.ndarray],
        scalars: Mapping[str, Number],
        sizes: Mapping[Sym, int],
    ) -> None:
        self.kernel, self.sizes, self.scalars = kernel, sizes, scalars
        for size, most in kernel.capacities:
            if size.evaluate(sizes) > most:
                raise ThreadError(f"{size} is {size.evaluate(sizes)}, more than {most}")
        self.grid = [size.evaluate(sizes) for size in kernel.grid]
        self.groups = 1
        for count in self.grid:
            self.groups *= max(0, count)
        self.total = self.groups * kernel.threads
        self.threads = np.arange(self.total)
        self.order = Order(kernel.threads, kernel.simd, self.threads)
        self.device = {
            t.name: Memory.of_tensor(t.name, tensors[t.name], t.dtype, self.order)
            for t in kernel.tensors
            if t.name in tensors
        }
        self.shared = {
            b: Memory.of_group(b.name, b.elements, b.dtype, self.groups, self.order)
            for b in kernel.shared
        }
        stores = (s for s in walk(kernel.body) if isinstance(s, ir.Store | ir.Atomic))
        written = [s.tensor for s in stores] + [
            s.destination
            for s in walk(kernel.body)
            if isinstance(s, ir.FragmentStore) and isinstance(s.destination, tile.Tensor)
        ]
        storages = {t.storage for t in written}
        for tensor in kernel.tensors:
            if tensor.name in self.device:
                self.device[tensor.name].constant = tensor.storage not in storages
        share_traces([*self.device.values()])
        self.values: dict[Var, np.ndarray] = {}
        self.lanes: dict[Var, int] = {}  # variables of lane loops
        self.active = np.ones(self.total, np.bool_)
        self.stmt: Stmt | None = None

    def run(self) -> None:
        """Run the whole grid."""
        with np.errstate(all="ignore"):
            if self.total:
                self.body(self.kernel.body)

    def fail(self, message: str) -> NoReturn:
        text = format_stmt(self.stmt).splitlines()[0] if self.stmt is not None else ""
        raise ThreadError(f"{message} in `{text}`")

    # -- statements ----------------------------------------------------------------------------

    def body(self, body: Body) -> None:
        for stmt in body:
            self.stmt = stmt
            if not self.active.any():
                return
            _EXECUTE[type(stmt)](self, stmt)

    def under(self, mask: np.ndarray, body: Body) -> None:
        """Run a body for the active threads where ``mask`` holds."""
        saved = self.active
        self.active = saved & mask
        if self.active.any():
            self.body(body)
        self.active = saved

    def let(self, stmt: ir.Let) -> None:
        var = stmt.var
        width = (var.components,) if var.components > 1 else ()
        shape = (*var.shape, *width, self.total)
        if stmt.value is None:
            self.values[var] = numerics.full(shape, numerics.poison(var.dtype), var.dtype)
            return
        self._check(stmt.value, var.dtype)
        self.values[var] = np.array(np.broadcast_to(self.eval(stmt.value), shape))

    def assign(self, stmt: ir.Assign) -> None:
        self._check(stmt.value, stmt.target.dtype)
        self.put(stmt.target, self.eval(stmt.value))

    def put(self, target: Var | Element, value: np.ndarray) -> None:
        array = target if isinstance(target, Var) else target.array
        where = () if isinstance(target, Var) else self._where(target)
        if array not in self.values:
            self.fail(f"{array.name} is not declared")
        held = self.values[array]
        held[where] = np.where(self.active, value, held[where])

    def _check(self, value: Expr, dtype: DType) -> None:
        if value.dtype.name != dtype.name:
            self.fail(f"{value.dtype} where {dtype} is wanted")

    def _where(self, element: Element) -> tuple[int, ...]:
        index = [self.constant(i) for i in element.index]
        if element.component is not None:
            index.append(self.constant(element.component))
        for at, room in zip(index, (*element.array.shape, element.array.components), strict=False):
            if not 0 <= at < room:
                self.fail(f"index {at} of {element.array.name}")
        return tuple(index)

    def constant(self, expr: Expr) -> int:
        """The value of an index of registers."""
        if isinstance(expr, ir.Const):
            return int(expr.value)
        if isinstance(expr, Var) and expr in self.lanes:
            return self.lanes[expr]
        value = self.eval(expr)
        if not (value == value.flat[0]).all():
            self.fail("registers indexed by what is not constant")
        return int(value.flat[0])

    def store(self, stmt: ir.Store) -> None:
        self._check(stmt.value, stmt.tensor.dtype)
        offset = self.integer(stmt.offset)
        value = self.eval(stmt.value)
        for part, mask in self._parts(stmt.value.width, stmt.guard, stmt.count):
            piece = value if stmt.value.width == 1 else value[part]
            self._try(self.device[stmt.tensor.name].store, offset + part, piece, mask)

    def _parts(
        self, width: int, guard: Expr | None, count: Expr | None
    ) -> list[tuple[int, np.ndarray]]:
        """Components of an access and the threads that access them."""
        mask = self.active if guard is None else self.active & self.eval(guard)
        if count is None:
            return [(part, mask) for part in range(width)]
        limit = self.integer(count)
        return [(part, mask & (limit > part)) for part in range(width)]

    def _try(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return function(*args)
        except ValueError as problem:
            self.fail(str(problem))

    def shared_store(self, stmt: ir.SharedStore) -> None:
        self._check(stmt.value, stmt.buffer.dtype)
        memory = self.shared[stmt.buffer]
        mask = self.active if stmt.guard is None else self.active & self.eval(stmt.guard)
        offset = self.shared_offset(stmt.buffer, stmt.index, mask)
        value = self.eval(stmt.value)
        for part in range(stmt.value.width):
            piece = value if stmt.value.width == 1 else value[part]
            self._try(memory.store, offset + part, piece, mask)

    def shared_offset(
        self, buffer: ir.SharedBuffer, index: Sequence[Expr], mask: np.ndarray
    ) -> np.ndarray:
        total = np.zeros(self.total, np.int64)
        for expr, stride, room in zip(index, buffer.strides, buffer.shape, strict=True):
            at = self.integer(expr)
            if (((at < 0) | (at >= room)) & mask).any():
                self.fail(f"index out of range in {buffer.name}, a dimension of {room}")
            total = total + at * stride
        return total + self.order.group * buffer.elements

    def atomic(self, stmt: ir.Atomic) -> None:
        mask = self.active if stmt.guard is None else self.active & self.eval(stmt.guard)
        operands = [self.each(stmt.value)]
        if stmt.expected is not None:
            operands.append(self.each(stmt.expected))
        memory = self.device[stmt.tensor.name]
        offset = self.integer(stmt.offset)
        old = self._try(memory.atomic, stmt.kind, offset, mask, operands)
        if stmt.result is not None:
            saved, self.active = self.active, mask
            self.put(stmt.result, old)
            self.active = saved

    def barrier(self, stmt: ir.Barrier) -> None:
        span = self.kernel.threads if stmt.scope == "group" else self.kernel.simd
        self.together(span, "a barrier")
        self.order.barrier(self.active, stmt.scope, shared=stmt.shared, device=stmt.device)

    def together(self, span: int, what: str) -> None:
        """All or none of each ``span`` threads are active."""
        here = self.active.reshape(-1, span)
        if (here.any(1) != here.all(1)).any():
            self.fail(f"{what} that only some threads reach")

    def lane_loop(self, stmt: ir.LaneLoop) -> None:
        for number in range(stmt.count):
            self.lanes[stmt.var] = number
            self.body(stmt.body)
        self.lanes.pop(stmt.var, None)

    def for_loop(self, stmt: ir.For) -> None:
        at, end, step = (self.each(e) for e in (stmt.begin, stmt.end, stmt.step))
        if ((step <= 0) & self.active).any():
            self.fail("a loop whose step is not positive")
        while ((at < end) & self.active).any():
            self.values[stmt.var] = at
            self.under(at < end, stmt.body)
            at = at + step

    def branch(self, stmt: ir.If) -> None:
        condition = self.each(stmt.cond)
        self.under(condition, stmt.then)
        self.under(~condition, stmt.orelse)

    def while_loop(self, stmt: ir.While) -> None:
        saved = self.active
        while self.active.any():
            self.body(stmt.before)
            self.active = self.active & self.eval(stmt.cond)
            if self.active.any():
                self.body(stmt.body)
        self.active = saved

    # -- fragments -----------------------------------------------------------------------------

    def _matrix(self, element: Element) -> tuple[ir.FragmentShape, np.ndarray, np.ndarray]:
        """Its shape, and row and column of each component (first axis) in each thread."""
        shape = element.array.fragment
        if shape is None:
            self.fail(f"{element.array.name} is no matrix")
        lane = self.threads % self.kernel.simd
        return shape, _place(shape.row, shape.width, lane), _place(shape.col, shape.width, lane)

    def _fragment_offsets(
        self, stmt: ir.FragmentLoad | ir.FragmentStore, element: Element, memory: Any
    ) -> list[np.ndarray]:
        self.together(self.kernel.simd, "a matrix access")
        shape, row, col = self._matrix(element)
        if stmt.transpose:
            row, col = col, row
        stride = self.integer(stmt.stride)
        if isinstance(memory, ir.SharedBuffer):
            base = self.shared_offset(memory, stmt.index, self.active)
        else:
            base = self.integer(stmt.index[0])
        return [base + row[c] * stride + col[c] for c in range(shape.width)]

    def fragment_load(self, stmt: ir.FragmentLoad) -> None:
        source = stmt.source
        offsets = self._fragment_offsets(stmt, stmt.target, source)
        memory = self._memory(source)
        parts = [self._try(memory.load, at, self.active) for at in offsets]
        self.put(stmt.target, np.stack(parts))

    def fragment_store(self, stmt: ir.FragmentStore) -> None:
        offsets = self._fragment_offsets(stmt, stmt.value, stmt.destination)
        memory = self._memory(stmt.destination)
        value = self.eval(stmt.value)
        for component, at in enumerate(offsets):
            self._try(memory.store, at, value[component], self.active)

    def _memory(self, place: Any) -> Memory:
        return self.shared[place] if isinstance(place, ir.SharedBuffer) else self.device[place.name]

    def mma(self, stmt: ir.Mma) -> None:
        self.together(self.kernel.simd, "a matrix product")
        dtype = stmt.target.dtype
        lhs, rhs, acc = (self._dense(e) for e in (stmt.lhs, stmt.rhs, stmt.acc))
        total = acc + lhs @ rhs
        shape, row, col = self._matrix(stmt.target)
        number = self.threads // self.kernel.simd
        parts = [total[number, row[c], col[c]] for c in range(shape.width)]
        self.put(stmt.target, numerics.cast(np.stack(parts), dtype))

    def _dense(self, element: Element) -> np.ndarray:
        """The matrices of all SIMD groups (f64)."""
        shape, row, col = self._matrix(element)
        value = self.eval(element)
        whole = np.zeros((self.total // self.kernel.simd, shape.rows, shape.cols))
        number = self.threads // self.kernel.simd
        for component in range(shape.width):
            whole[number, row[component], col[component]] = value[component]
        return whole

    def inline(self, _: ir.Inline) -> NoReturn:
        self.fail("target code has no meaning outside its target")

    # -- expressions ---------------------------------------------------------------------------

    def eval(self, expr: Expr) -> np.ndarray:
        """The value for each thread (last axis); vectors have their components before."""
        return _EVAL[type(expr)](self, expr)

    def integer(self, expr: Expr) -> np.ndarray:
        return self.each(expr).astype(np.int64)

    def each(self, expr: Expr) -> np.ndarray:
        """The value of a scalar, one entry for each thread."""
        return np.broadcast_to(self.eval(expr), (self.total,))

    def extent(self, expr: ir.Extent) -> np.ndarray:
        size: Size = expr.size
        return numerics.full((1,), size.evaluate(self.sizes), expr.dtype)

    def identity(self, expr: ir.Id) -> np.ndarray:
        threads, simd = self.kernel.threads, self.kernel.simd
        group = self.threads // threads
        for axis, count in zip(("group_x", "group_y", "group_z"), self.grid, strict=False):
            if expr.kind == axis:
                return self._number(group % count, expr)
            group = group // count
        place = self.threads % threads
        number = {"thread": place, "lane": place % simd, "simdgroup": place // simd}
        return self._number(number.get(expr.kind, np.zeros_like(place)), expr)

    def _number(self, value: np.ndarray, expr: Expr) -> np.ndarray:
        return value.astype(numerics.held(expr.dtype))

    def variable(self, var: Var) -> np.ndarray:
        if var in self.lanes:
            return numerics.full((1,), self.lanes[var], var.dtype)
        if var not in self.values:
            self.fail(f"{var.name} is not declared")
        return self.values[var]

    def element(self, expr: Element) -> np.ndarray:
        return self.variable(expr.array)[self._where(expr)]

    def apply(self, expr: ir.Apply) -> np.ndarray:
        if expr.name in ("land", "lor"):
            return self._short(expr)
        args = [self.eval(a) for a in expr.args]
        if expr.name in ("nan_gt", "nan_lt"):
            a, b = args
            return (a > b if expr.name == "nan_gt" else a < b) | (np.isnan(a) & ~np.isnan(b))
        result = numerics.elementwise(_LOGIC.get(expr.name, expr.name), args, expr.dtype)
        if result.dtype != numerics.held(expr.dtype):
            self.fail(f"{result.dtype} where {expr.dtype} is wanted")
        return result

    def _short(self, expr: ir.Apply) -> np.ndarray:
        """A condition whose second part is evaluated only where the first leaves it open."""
        first = self.each(expr.args[0])
        open_ = first if expr.name == "land" else ~first
        saved = self.active
        self.active = saved & open_
        second = self.each(expr.args[1])
        self.active = saved
        return first & second if expr.name == "land" else first | second

    def convert(self, expr: ir.Convert) -> np.ndarray:
        value = self.eval(expr.value)
        if expr.bitcast:
            return numerics.bitcast(value, expr.value.dtype, expr.dtype)
        return numerics.cast(value, expr.dtype)

    def random(self, expr: ir.Random) -> np.ndarray:
        seed = int(self.eval(expr.seed).flat[0])
        words = numerics.philox(seed, self.eval(expr.offset))
        if expr.kind == "uniform":
            return numerics.uniform(words)
        return numerics.cast(words, expr.dtype)

    def load(self, expr: ir.Load) -> np.ndarray:
        if expr.tensor.name not in self.device:
            self.fail(f"no tensor {expr.tensor.name} was given")
        memory = self.device[expr.tensor.name]
        offset = self.integer(expr.offset)
        parts = []
        for part, mask in self._parts(expr.vector, expr.guard, expr.count):
            value = self._try(memory.load, offset + part, mask)
            if expr.other:
                other = numerics.full((1,), expr.other, expr.dtype)
                value = np.where(mask, value, other)
            parts.append(value)
        return parts[0] if expr.vector == 1 else np.stack(parts)

    def shared_load(self, expr: ir.SharedLoad) -> np.ndarray:
        mask = self.active if expr.guard is None else self.active & self.eval(expr.guard)
        memory = self.shared[expr.buffer]
        offset = self.shared_offset(expr.buffer, expr.index, mask)
        parts = [self._try(memory.load, offset + part, mask) for part in range(expr.vector)]
        return parts[0] if expr.vector == 1 else np.stack(parts)

    def shuffle(self, expr: ir.Shuffle) -> np.ndarray:
        self.together(self.kernel.simd, "a shuffle")
        lane = self.threads % self.kernel.simd
        by = self.integer(expr.by)
        source = {"xor": lane ^ by, "up": lane - by, "down": lane + by, "index": by}[expr.kind]
        inside = (source >= 0) & (source < self.kernel.simd)
        source = np.where(inside, source, lane)
        return self._moved(self.eval(expr.value), self.threads - lane + source)

    def _moved(self, value: np.ndarray, source: np.ndarray) -> np.ndarray:
        return np.broadcast_to(value, (self.total,))[source]

    def lane_reduce(self, expr: ir.LaneReduce) -> np.ndarray:
        self.together(self.kernel.simd, "a lane reduction")
        value = self.each(expr.value)
        for bit in expr.xors:
            other = self._moved(value, self.threads ^ bit)
            value = numerics.elementwise(_COMBINE[expr.name], (value, other), expr.dtype)
        return value

    def lane_scan(self, expr: ir.LaneScan) -> np.ndarray:
        simd = self.kernel.simd
        self.together(simd, "a lane scan")
        value = self.each(expr.value)
        lane = self.threads % simd
        neutral = numerics.full((1,), int(expr.name == "prod"), expr.dtype)
        total = np.where(lane > 0, self._moved(value, self.threads - (lane > 0)), neutral)
        for distance in (1 << i for i in range(simd.bit_length() - 1)):
            there = lane >= distance
            other = self._moved(total, self.threads - distance * there)
            combined = numerics.elementwise(_COMBINE[expr.name], (other, total), expr.dtype)
            total = np.where(there, combined, total)
        return total


def _place(parts: Sequence[ir.Part], width: int, lane: np.ndarray) -> np.ndarray:
    """Row or column of each component (first axis) in each thread."""
    component = np.arange(width)[:, None]
    total = np.zeros((width, lane.size), np.int64)
    for part in parts:
        number = lane // part.stride if part.stride else component
        total = total + part.weight * (number % part.count)
    return total


_EXECUTE: dict[type[Stmt], Callable[..., None]] = {
    ir.Let: Machine.let, ir.Assign: Machine.assign, ir.Store: Machine.store,
    ir.SharedStore: Machine.shared_store, ir.Atomic: Machine.atomic, ir.Barrier: Machine.barrier,
    ir.LaneLoop: Machine.lane_loop, ir.For: Machine.for_loop, ir.If: Machine.branch,
    ir.While: Machine.while_loop, ir.FragmentLoad: Machine.fragment_load,
    ir.FragmentStore: Machine.fragment_store, ir.Mma: Machine.mma, ir.Inline: Machine.inline,
}  # fmt: skip

_EVAL: dict[type[Expr], Callable[..., np.ndarray]] = {
    ir.Const: lambda m, e: numerics.full((1,), e.value, e.dtype),
    ir.Extent: Machine.extent,
    ir.HostScalar: lambda m, e: numerics.full((1,), m.scalars[e.name], e.dtype),
    ir.Id: Machine.identity, Var: Machine.variable, Element: Machine.element,
    ir.Apply: Machine.apply, ir.Convert: Machine.convert, ir.Random: Machine.random,
    ir.Load: Machine.load, ir.SharedLoad: Machine.shared_load, ir.Shuffle: Machine.shuffle,
    ir.LaneReduce: Machine.lane_reduce, ir.LaneScan: Machine.lane_scan,
}  # fmt: skip
