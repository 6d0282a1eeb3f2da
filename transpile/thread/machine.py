"""Executes the statements of a thread IR kernel on torch tensors, one entry per thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from transpile.ir import ir as tile
from transpile.ir.dtypes import DType
from transpile.ir.ops import Number
from transpile.ir.reference import numerics
from transpile.ir.sizes import Size, Sym
from transpile.thread import ir
from transpile.thread.interpreter import ThreadError
from transpile.thread.ir import Body, Element, Expr, Kernel, Stmt, Var
from transpile.thread.orders import Memory, Order, bits, share_traces
from transpile.thread.printer import format_stmt
from transpile.thread.walk import walk

_COMBINE = {
    "sum": "add", "prod": "mul", "max": "maximum", "min": "minimum", "any": "or", "all": "and",
    "xor_sum": "xor",
}  # fmt: skip
_LOGIC = {"land": "and", "lor": "or", "lnot": "not"}


class Machine:
    """State of a launch. ``values`` has, per variable, a tensor whose last axis is the thread (of
    all groups); before it come the array's dimensions, then the vector's components."""

    def __init__(
        self,
        kernel: Kernel,
        tensors: Mapping[str, Tensor],
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
        self.threads = torch.arange(self.total)
        self.order = Order(kernel.threads, kernel.simd, self.threads)
        self.device = {
            t.name: Memory.of_tensor(t.name, tensors[t.name], self.order)
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
        share_traces([(self.device[n], tensors[n]) for n in self.device])
        self.values: dict[Var, Tensor] = {}
        self.lanes: dict[Var, int] = {}  # variables of lane loops
        self.active = torch.ones(self.total, dtype=torch.bool)
        self.stmt: Stmt | None = None

    def run(self) -> None:
        """Run the whole grid."""
        if self.total:
            self.body(self.kernel.body)

    def fail(self, message: str) -> NoReturn:
        text = format_stmt(self.stmt).splitlines()[0] if self.stmt is not None else ""
        raise ThreadError(f"{message} in `{text}`")

    # -- statements ----------------------------------------------------------------------------

    def body(self, body: Body) -> None:
        for stmt in body:
            self.stmt = stmt
            if not bool(self.active.any()):
                return
            _EXECUTE[type(stmt)](self, stmt)

    def under(self, mask: Tensor, body: Body) -> None:
        """Run a body for the active threads where ``mask`` holds."""
        saved = self.active
        self.active = saved & mask
        if bool(self.active.any()):
            self.body(body)
        self.active = saved

    def let(self, stmt: ir.Let) -> None:
        var = stmt.var
        width = (var.components,) if var.components > 1 else ()
        shape = (*var.shape, *width, self.total)
        if stmt.value is None:
            self.values[var] = numerics.full(shape, numerics.poison(var.dtype), var.dtype)
            return
        value = self.eval(stmt.value)
        self._check(value, var.dtype)
        self.values[var] = value.expand(shape).clone()

    def assign(self, stmt: ir.Assign) -> None:
        value = self.eval(stmt.value)
        self._check(value, stmt.target.dtype)
        self.put(stmt.target, value)

    def put(self, target: Var | Element, value: Tensor) -> None:
        array = target if isinstance(target, Var) else target.array
        where = () if isinstance(target, Var) else self._where(target)
        if array not in self.values:
            self.fail(f"{array.name} is not declared")
        held = bits(self.values[array])
        held[where] = torch.where(self.active, bits(value), held[where])

    def _check(self, value: Tensor, dtype: DType) -> None:
        if value.dtype != numerics.torch_dtype(dtype):
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
        if not bool((value == value.flatten()[0]).all()):
            self.fail("registers indexed by what is not constant")
        return int(value.flatten()[0])

    def store(self, stmt: ir.Store) -> None:
        offset = self.integer(stmt.offset)
        value = self.eval(stmt.value)
        for part, mask in self._parts(stmt.value.width, stmt.guard, stmt.count):
            piece = value if stmt.value.width == 1 else value[part]
            self._try(self.device[stmt.tensor.name].store, offset + part, piece, mask)

    def _parts(
        self, width: int, guard: Expr | None, count: Expr | None
    ) -> list[tuple[int, Tensor]]:
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
        memory = self.shared[stmt.buffer]
        mask = self.active if stmt.guard is None else self.active & self.eval(stmt.guard)
        offset = self.shared_offset(stmt.buffer, stmt.index, mask)
        value = self.eval(stmt.value)
        for part in range(stmt.value.width):
            piece = value if stmt.value.width == 1 else value[part]
            self._try(memory.store, offset + part, piece.expand(self.total), mask)

    def shared_offset(self, buffer: ir.SharedBuffer, index: Sequence[Expr], mask: Tensor) -> Tensor:
        total = torch.zeros(self.total, dtype=torch.int64)
        for expr, stride, room in zip(index, buffer.strides, buffer.shape, strict=True):
            at = self.integer(expr)
            if bool((((at < 0) | (at >= room)) & mask).any()):
                self.fail(f"index out of range in {buffer.name}, a dimension of {room}")
            total = total + at * stride
        return total + self.order.group * buffer.elements

    def atomic(self, stmt: ir.Atomic) -> None:
        mask = self.active if stmt.guard is None else self.active & self.eval(stmt.guard)
        operands = [self.eval(stmt.value).expand(self.total)]
        if stmt.expected is not None:
            operands.append(self.eval(stmt.expected).expand(self.total))
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
        here = self.active.view(-1, span)
        if bool((here.any(1) != here.all(1)).any()):
            self.fail(f"{what} that only some threads reach")

    def lane_loop(self, stmt: ir.LaneLoop) -> None:
        for number in range(stmt.count):
            self.lanes[stmt.var] = number
            self.body(stmt.body)
        self.lanes.pop(stmt.var, None)

    def for_loop(self, stmt: ir.For) -> None:
        at, end, step = (self.eval(e).expand(self.total) for e in (stmt.begin, stmt.end, stmt.step))
        if bool(((step <= 0) & self.active).any()):
            self.fail("a loop whose step is not positive")
        while bool(((at < end) & self.active).any()):
            self.values[stmt.var] = at
            self.under(at < end, stmt.body)
            at = at + step

    def branch(self, stmt: ir.If) -> None:
        condition = self.eval(stmt.cond).expand(self.total)
        self.under(condition, stmt.then)
        self.under(~condition, stmt.orelse)

    def while_loop(self, stmt: ir.While) -> None:
        saved = self.active
        while bool(self.active.any()):
            self.body(stmt.before)
            self.active = self.active & self.eval(stmt.cond)
            if bool(self.active.any()):
                self.body(stmt.body)
        self.active = saved

    # -- fragments -----------------------------------------------------------------------------

    def _matrix(self, element: Element) -> tuple[ir.FragmentShape, Tensor, Tensor]:
        """Its shape, and row and column of each component (first axis) in each thread."""
        shape = element.array.fragment
        if shape is None:
            self.fail(f"{element.array.name} is no matrix")
        lane = self.threads % self.kernel.simd
        return shape, _place(shape.row, shape.width, lane), _place(shape.col, shape.width, lane)

    def _fragment_offsets(
        self, stmt: ir.FragmentLoad | ir.FragmentStore, element: Element, memory: Any
    ) -> list[Tensor]:
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
        self.put(stmt.target, torch.stack([bits(p) for p in parts]).view(parts[0].dtype))

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
        total = acc.double() + lhs.double() @ rhs.double()
        shape, row, col = self._matrix(stmt.target)
        number = self.threads // self.kernel.simd
        parts = [total[number, row[c], col[c]] for c in range(shape.width)]
        self.put(stmt.target, torch.stack(parts).to(numerics.torch_dtype(dtype)))

    def _dense(self, element: Element) -> Tensor:
        """The matrices of all SIMD groups."""
        shape, row, col = self._matrix(element)
        value = self.eval(element)
        whole = torch.zeros((self.total // self.kernel.simd, shape.rows, shape.cols))
        number = self.threads // self.kernel.simd
        for component in range(shape.width):
            whole[number, row[component], col[component]] = value[component].float()
        return whole

    def inline(self, _: ir.Inline) -> NoReturn:
        self.fail("target code has no meaning outside its target")

    # -- expressions ---------------------------------------------------------------------------

    def eval(self, expr: Expr) -> Tensor:
        """The value for each thread (last axis); vectors have their components before."""
        return _EVAL[type(expr)](self, expr)

    def integer(self, expr: Expr) -> Tensor:
        return self.eval(expr).to(torch.int64).expand(self.total)

    def extent(self, expr: ir.Extent) -> Tensor:
        size: Size = expr.size
        return numerics.full((), size.evaluate(self.sizes), expr.dtype)

    def identity(self, expr: ir.Id) -> Tensor:
        threads, simd = self.kernel.threads, self.kernel.simd
        group = self.threads // threads
        for axis, count in zip(("group_x", "group_y", "group_z"), self.grid, strict=False):
            if expr.kind == axis:
                return self._number(group % count, expr)
            group = group // count
        place = self.threads % threads
        number = {"thread": place, "lane": place % simd, "simdgroup": place // simd}
        return self._number(number.get(expr.kind, torch.zeros_like(place)), expr)

    def _number(self, value: Tensor, expr: Expr) -> Tensor:
        return value.to(numerics.torch_dtype(expr.dtype))

    def variable(self, var: Var) -> Tensor:
        if var in self.lanes:
            return numerics.full((), self.lanes[var], var.dtype)
        if var not in self.values:
            self.fail(f"{var.name} is not declared")
        return self.values[var]

    def element(self, expr: Element) -> Tensor:
        return bits(self.variable(expr.array))[self._where(expr)].view(
            numerics.torch_dtype(expr.dtype)
        )

    def apply(self, expr: ir.Apply) -> Tensor:
        if expr.name in ("land", "lor"):
            return self._short(expr)
        args = [self.eval(a) for a in expr.args]
        if expr.name in ("nan_gt", "nan_lt"):
            a, b = (arg.float() for arg in args)
            return (a > b if expr.name == "nan_gt" else a < b) | (a.isnan() & ~b.isnan())
        if expr.name == "where":
            return torch.where(args[0], bits(args[1]), bits(args[2])).view(args[1].dtype)
        result = numerics.elementwise(_LOGIC.get(expr.name, expr.name), args)
        self._check(result, expr.dtype)
        return result

    def _short(self, expr: ir.Apply) -> Tensor:
        """A condition whose second part is evaluated only where the first leaves it open."""
        first = self.eval(expr.args[0]).expand(self.total)
        open_ = first if expr.name == "land" else ~first
        saved = self.active
        self.active = saved & open_
        second = self.eval(expr.args[1]).expand(self.total)
        self.active = saved
        return first & second if expr.name == "land" else first | second

    def convert(self, expr: ir.Convert) -> Tensor:
        return numerics.cast(self.eval(expr.value), expr.dtype, expr.bitcast)

    def random(self, expr: ir.Random) -> Tensor:
        seed = self.eval(expr.seed).flatten()[0]
        words = numerics.philox(seed, self.eval(expr.offset))
        if expr.kind == "uniform":
            return numerics.uniform(words)
        return words.to(numerics.torch_dtype(expr.dtype))

    def load(self, expr: ir.Load) -> Tensor:
        if expr.tensor.name not in self.device:
            self.fail(f"no tensor {expr.tensor.name} was given")
        memory = self.device[expr.tensor.name]
        offset = self.integer(expr.offset)
        parts = []
        for part, mask in self._parts(expr.vector, expr.guard, expr.count):
            value = self._try(memory.load, offset + part, mask)
            if expr.other:
                other = numerics.full((), expr.other, expr.dtype)
                value = torch.where(mask, value, other)
            parts.append(value)
        return (
            parts[0]
            if expr.vector == 1
            else torch.stack([bits(p) for p in parts]).view(parts[0].dtype)
        )

    def shared_load(self, expr: ir.SharedLoad) -> Tensor:
        mask = self.active if expr.guard is None else self.active & self.eval(expr.guard)
        memory = self.shared[expr.buffer]
        offset = self.shared_offset(expr.buffer, expr.index, mask)
        parts = [self._try(memory.load, offset + part, mask) for part in range(expr.vector)]
        return (
            parts[0]
            if expr.vector == 1
            else torch.stack([bits(p) for p in parts]).view(parts[0].dtype)
        )

    def shuffle(self, expr: ir.Shuffle) -> Tensor:
        self.together(self.kernel.simd, "a shuffle")
        lane = self.threads % self.kernel.simd
        by = self.integer(expr.by)
        source = {"xor": lane ^ by, "up": lane - by, "down": lane + by, "index": by}[expr.kind]
        inside = (source >= 0) & (source < self.kernel.simd)
        source = torch.where(inside, source, lane)
        return self._moved(self.eval(expr.value), self.threads - lane + source)

    def _moved(self, value: Tensor, source: Tensor) -> Tensor:
        return bits(value.expand(self.total))[source].view(value.dtype)

    def lane_reduce(self, expr: ir.LaneReduce) -> Tensor:
        self.together(self.kernel.simd, "a lane reduction")
        value = self.eval(expr.value).expand(self.total)
        for bit in expr.xors:
            other = self._moved(value, self.threads ^ bit)
            value = numerics.elementwise(_COMBINE[expr.name], (value, other))
        return value

    def lane_scan(self, expr: ir.LaneScan) -> Tensor:
        simd = self.kernel.simd
        self.together(simd, "a lane scan")
        value = self.eval(expr.value).expand(self.total)
        lane = self.threads % simd
        neutral = numerics.full((), int(expr.name == "prod"), expr.dtype)
        total = torch.where(lane > 0, self._moved(value, self.threads - (lane > 0).long()), neutral)
        for distance in (1 << i for i in range(simd.bit_length() - 1)):
            there = lane >= distance
            other = self._moved(total, self.threads - distance * there.long())
            combined = numerics.elementwise(_COMBINE[expr.name], (other, total))
            total = torch.where(there, combined, total)
        return total


def _place(parts: Sequence[ir.Part], width: int, lane: Tensor) -> Tensor:
    """Row or column of each component (first axis) in each thread."""
    component = torch.arange(width).unsqueeze(1)
    total = torch.zeros((width, lane.numel()), dtype=torch.int64)
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

_EVAL: dict[type[Expr], Callable[..., Tensor]] = {
    ir.Const: lambda m, e: numerics.full((), e.value, e.dtype),
    ir.Extent: Machine.extent,
    ir.HostScalar: lambda m, e: numerics.full((), m.scalars[e.name], e.dtype),
    ir.Id: Machine.identity, Var: Machine.variable, Element: Machine.element,
    ir.Apply: Machine.apply, ir.Convert: Machine.convert, ir.Random: Machine.random,
    ir.Load: Machine.load, ir.SharedLoad: Machine.shared_load, ir.Shuffle: Machine.shuffle,
    ir.LaneReduce: Machine.lane_reduce, ir.LaneScan: Machine.lane_scan,
}  # fmt: skip
