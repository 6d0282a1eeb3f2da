"""Executes the operations of a phase on torch tensors, program by program."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn

import torch
from torch import Tensor

from transpile.ir import ir
from transpile.ir.interpreter import Claims, InterpreterError
from transpile.ir.ir import Block, Guard, Kernel, Op, Value
from transpile.ir.ops import Number
from transpile.ir.printer import format_op, format_type
from transpile.ir.reference import numerics
from transpile.ir.reference.memory import AccessError, Place, atomic_update
from transpile.ir.sizes import Size, Sym
from transpile.ir.walk import entry_axes, index_shape, reshape_groups


@dataclass(frozen=True)
class TileRun:
    """A tile variable's value: its lanes are ``begin + [0, block)``, in range below ``end``."""

    begin: int
    end: int
    block: int
    count: int

    @cached_property
    def lanes(self) -> Tensor:
        return self.begin + torch.arange(self.block)

    @cached_property
    def in_range(self) -> Tensor:
        return self.lanes < self.end


class Machine:
    """Runs one phase at a time. ``env`` maps the values in scope to tensors and tiles."""

    def __init__(
        self,
        kernel: Kernel,
        tensors: Mapping[str, Tensor],
        scalars: Mapping[str, Number],
        sizes: Mapping[Sym, int],
        blocks: Mapping[Sym, int],
        claims: Claims | None,
        pad_size_axes: bool,
    ) -> None:
        self.kernel = kernel
        self.tensors = tensors
        self.scalars = scalars
        self.sizes = {**sizes, **blocks}
        for block in kernel.blocks:
            if block.sym not in blocks and block.fixed is not None:
                self.sizes[block.sym] = block.fixed.evaluate(self.sizes)
        self.claims = claims
        self.pads = pad_size_axes
        self.combining = False  # inside the combine function of a reduction or scan
        self.env: dict[Value, Any] = {}
        self._physical: dict[Size, int] = {}
        self._types: dict[Value, tuple[tuple[int, ...], Any]] = {}
        self._places: dict[Op, tuple[tuple[Size, ...], tuple[tuple[int, ...], ...]]] = {}

    def run(self, phase_index: int) -> None:
        """Execute all programs of the phase."""
        phase = self.kernel.phases[phase_index]
        axes = [self._axis_positions(axis) for axis in phase.axes]
        for positions in itertools.product(*reversed(axes)):  # the first axis varies fastest
            self.env = {
                axis.var: position
                for axis, position in zip(phase.axes, reversed(positions), strict=True)
            }
            self.block(phase.body)

    def _axis_positions(self, axis: ir.GridAxis) -> list[Any]:
        begin, end = self.extent(axis.begin), self.extent(axis.end)
        if axis.block is None:
            dtype = numerics.torch_dtype(axis.var.dtype)
            return [torch.tensor(i, dtype=dtype) for i in range(begin, end, axis.step)]
        return self._tile_runs(begin, end, axis.block)

    def _tile_runs(self, begin: int, end: int, block: Sym) -> list[Any]:
        size = self.sizes[block]
        count = max(0, -(-(end - begin) // size))
        return [TileRun(at, min(at + size, end), size, count) for at in range(begin, end, size)]

    # -- sizes -----------------------------------------------------------------------------

    def extent(self, size: Size) -> int:
        """The number that a size is in this launch."""
        return size.evaluate(self.sizes)

    def physical(self, size: Size) -> int:
        """Lanes that an axis of this size has: padded where the mode asks for it."""
        if size not in self._physical:
            extent = self.extent(size)
            padded = self.pads and extent > 0
            self._physical[size] = 1 << (extent - 1).bit_length() if padded else extent
        return self._physical[size]

    def shape(self, shape: Sequence[Size]) -> tuple[int, ...]:
        return tuple(self.physical(size) for size in shape)

    # -- execution -------------------------------------------------------------------------

    def block(self, block: Block) -> list[Any]:
        """Run a region whose parameters are bound; its yields."""
        for op in block.ops:
            execute = _EXECUTE.get(type(op))
            if execute is None:
                self.fail(op, "the interpreter does not know this operation")
            try:
                produced = execute(self, op)
            except (AccessError, NotImplementedError, RuntimeError, ValueError) as problem:
                self.fail(op, str(problem))
            self._bind(op, produced)
        return [self.env[value] for value in block.yields]

    def fail(self, op: Op, message: str) -> NoReturn:
        where = f"line {op.span.line}: " if op.span else ""
        raise InterpreterError(f"{where}{message} in `{format_op(op).splitlines()[0]}`")

    def _bind(self, op: Op, produced: Any) -> None:
        if not op.results:
            return
        results = produced if isinstance(produced, (tuple, list)) else (produced,)
        for value, tensor in zip(op.results, results, strict=True):
            self._check_type(op, value, tensor)
            self.env[value] = self.settle(op, value, tensor)

    def _check_type(self, op: Op, value: Value, tensor: Tensor) -> None:
        if value not in self._types:
            self._types[value] = self.shape(value.shape), numerics.torch_dtype(value.dtype)
        expected, got = self._types[value], (tuple(tensor.shape), tensor.dtype)
        if got == expected:
            return
        if got[1] != expected[1]:
            self.fail(op, f"the result is {got[1]}, not {format_type(value.type)}")
        if got[0] != expected[0] and not self._in_combine(value, got[0]):
            self.fail(op, f"the result has shape {got[0]}, not {expected[0]}")

    def _in_combine(self, value: Value, shape: tuple[int, ...]) -> bool:
        """Combine functions are written for scalars and run on tiles."""
        return not value.shape and bool(shape) and self.combining

    def region(self, block: Block, args: Sequence[Any]) -> list[Any]:
        for param, arg in zip(block.params, args, strict=True):
            self.env[param] = arg
        return self.block(block)

    # -- claims and poison -----------------------------------------------------------------

    def settle(self, op: Op, value: Value, tensor: Tensor) -> Tensor:
        """Check what the analysis claims of a result, and poison what it calls junk."""
        if self.claims is None or self.combining:
            return tensor
        uniform = self.claims.uniform(value)
        if uniform is not None:
            self._assert_holds(op, tensor, torch.tensor(True), uniform, "all lanes")
            return tensor
        if not value.shape:
            return tensor
        held = torch.zeros((), dtype=torch.bool)
        for (dim, tile), number in self.claims.known(value).items():
            lanes = self._beyond(value, dim, tile)
            if lanes is not None:
                self._assert_holds(op, tensor, lanes, number, f"lanes beyond axis {dim}")
                held = held | lanes
        if value.dtype.is_bool:  # what it was computed from is poisoned already
            return tensor
        junk = torch.zeros((), dtype=torch.bool)
        for dim, tile in self.claims.junk(value):
            lanes = self._beyond(value, dim, tile)
            if lanes is not None:
                junk = junk | lanes
        junk = junk & ~held
        if not junk.any():
            return tensor
        spoiled = numerics.full((), numerics.poison(value.dtype), value.dtype)
        return torch.where(junk, spoiled, tensor)

    def _beyond(self, value: Value, dim: int, tile: Value | None) -> Tensor | None:
        """The lanes of an axis that are out of range, shaped to broadcast; None if out of scope."""
        size = value.shape[dim]
        lanes = torch.arange(self.physical(size))
        if tile is None:
            beyond = lanes >= self.extent(size)
        else:
            run = self.env.get(tile)
            if run is None:
                return None
            if run.block != self.physical(size):
                raise InterpreterError(
                    f"a claim about axis {dim} of {value.name} is by a wrong tile"
                )
            beyond = ~run.in_range
        return beyond.reshape(tuple(-1 if axis == dim else 1 for axis in range(len(value.shape))))

    def _assert_holds(
        self, op: Op, tensor: Tensor, lanes: Tensor, number: Number, what: str
    ) -> None:
        wrong = lanes & ~numerics.same_as(tensor, number)
        if wrong.any():
            found = tensor[torch.broadcast_to(wrong, tensor.shape)].flatten()[0]
            self.fail(op, f"the analysis claims {number!r} in {what}, but there is {found}")

    # -- guards ----------------------------------------------------------------------------

    def in_range(self, guards: Sequence[Guard], shape: Sequence[Size]) -> Tensor:
        """Lanes of a shape that all guards admit, shaped to broadcast to it."""
        lanes = torch.ones((1,) * len(shape), dtype=torch.bool)
        for guard in guards:
            size = shape[guard.dim]
            if guard.tile is None:
                admitted = torch.arange(self.physical(size)) < self.extent(size)
            else:
                run: TileRun = self.env[guard.tile]
                admitted = run.in_range
            view = tuple(-1 if axis == guard.dim else 1 for axis in range(len(shape)))
            lanes = lanes & admitted.reshape(view)
        return lanes

    def place(self, op: ir.Load | ir.Store | ir.Atomic) -> Place:
        """Resolve an access to index tiles and participating lanes, checked for bounds."""
        if op not in self._places:
            self._places[op] = index_shape(op.index), entry_axes(op.index)
        shape, axes_of = self._places[op]
        rank = len(shape)
        index = []
        admitted = self.in_range(op.guards, shape)
        for dim, (entry, axes) in enumerate(zip(op.index, axes_of, strict=True)):
            lanes = self._entry(entry)
            if lanes.ndim:
                view = [1] * rank
                for axis, size in zip(axes, lanes.shape, strict=True):
                    view[axis] = size
                lanes = lanes.permute(*_ascending(axes)).reshape(view)
            index.append(lanes.to(torch.int64))
            if isinstance(entry, ir.AtSlice) and entry.start is not None:
                admitted = admitted & (index[-1] < self.extent(op.tensor.shape[dim]))
        if op.mask is not None:
            admitted = admitted & self.env[op.mask]
        if op.tensor.name not in self.tensors:
            raise ValueError(f"no tensor {op.tensor.name} was given")
        place = Place(self.tensors[op.tensor.name], index, admitted, self.shape(shape))
        place.check()
        return place

    def _entry(self, entry: ir.Index) -> Tensor:
        if isinstance(entry, ir.AtTile):
            offset = 0 if entry.offset is None else int(self.env[entry.offset])
            lanes: Tensor = self.env[entry.tile].lanes + offset
            return lanes
        if isinstance(entry, ir.AtSlice):
            start = 0 if entry.start is None else int(self.env[entry.start])
            return start + torch.arange(self.physical(entry.length))
        index: Tensor = self.env[entry.value]
        return index


def _ascending(axes: Sequence[int]) -> list[int]:
    """The permutation that sorts an index tile's axes by the result axes they stand for."""
    return sorted(range(len(axes)), key=lambda position: axes[position])


def _scalar(number: Number, value: Value) -> Tensor:
    return numerics.full((), number, value.dtype)


# -- one function per operation ----------------------------------------------------------------


def _const(_: Machine, op: ir.Const) -> Tensor:
    return _scalar(op.value, op.result)


def _nothing(_: Machine, __: Op) -> tuple[()]:
    return ()


def _tile_index(m: Machine, op: ir.TileIndex) -> Tensor:
    return m.env[op.tile].lanes.to(numerics.torch_dtype(op.result.dtype))


def _tile_attr(m: Machine, op: ir.TileAttr) -> Tensor:
    run: TileRun = m.env[op.tile]
    number = run.begin // run.block if op.attr == "id" else getattr(run, op.attr)
    return _scalar(number, op.result)


def _iota(m: Machine, op: ir.Iota) -> Tensor:
    lanes = op.start + op.step * torch.arange(m.physical(op.result.shape[0]))
    return lanes.to(numerics.torch_dtype(op.result.dtype))


def _load(m: Machine, op: ir.Load) -> Tensor:
    return m.place(op).load()


def _store(m: Machine, op: ir.Store) -> tuple[()]:
    m.place(op).store(m.env[op.value])
    return ()


def _atomic(m: Machine, op: ir.Atomic) -> Tensor:
    operands = [m.env[op.value]]
    if op.expected is not None:
        operands.append(m.env[op.expected])
    return m.place(op).atomic(atomic_update(op.kind), *operands)


def _elementwise(m: Machine, op: ir.Elementwise) -> Tensor:
    return numerics.elementwise(op.name, [m.env[arg] for arg in op.args])


def _cast(m: Machine, op: ir.Cast) -> Tensor:
    return numerics.cast(m.env[op.value], op.result.dtype, op.bitcast)


def _reshape(m: Machine, op: ir.Reshape) -> Tensor:
    """Axes that are kept keep their padding; those that are merged or split lose it."""
    value: Tensor = m.env[op.value]
    if not m.pads:
        return value.reshape(m.shape(op.result.shape))
    groups = reshape_groups(op.value.shape, op.result.shape)
    kept = [(old[0], new[0]) for old, new in groups if len(old) == len(new) == 1]
    inner = value[_logical(m, op.value.shape, {old for old, _ in kept})]
    window = _logical(m, op.result.shape, {new for _, new in kept})
    result = numerics.full(m.shape(op.result.shape), 0, op.result.dtype)
    result[window] = inner.reshape(result[window].shape)
    return result


def _logical(m: Machine, shape: Sequence[Size], whole: set[int]) -> tuple[slice, ...]:
    """The lanes of a shape without padding, but for the axes in ``whole``."""
    return tuple(
        slice(None) if axis in whole else slice(m.extent(size)) for axis, size in enumerate(shape)
    )


def _broadcast(m: Machine, op: ir.Broadcast) -> Tensor:
    return torch.broadcast_to(m.env[op.value], m.shape(op.result.shape))


def _permute(m: Machine, op: ir.Permute) -> Tensor:
    permuted: Tensor = m.env[op.value].permute(op.order)
    return permuted


def _join(m: Machine, op: ir.Join) -> Tensor:
    return torch.stack((m.env[op.lhs], m.env[op.rhs]), dim=-1)


def _split(m: Machine, op: ir.Split) -> tuple[Tensor, ...]:
    return tuple(m.env[op.value].unbind(-1))


def _full(m: Machine, op: ir.Full) -> Tensor:
    return torch.broadcast_to(m.env[op.value], m.shape(op.result.shape))


def _mask(m: Machine, op: ir.Mask) -> Tensor:
    fill = numerics.full((), op.fill, op.value.dtype)
    return torch.where(m.in_range(op.guards, op.value.shape), m.env[op.value], fill)


def _reduce(m: Machine, op: ir.Reduce) -> Tensor:
    return numerics.reduce(op.name, m.env[op.value], op.dim, op.keepdim, op.result.dtype)


def _combine(m: Machine, combine: Block, lhs: Sequence[Tensor], rhs: Sequence[Tensor]) -> Any:
    m.combining = True
    results = m.region(combine, (*lhs, *rhs))
    m.combining = False
    return [torch.broadcast_to(r, lhs[0].shape) for r in results]


def _reduce_with(m: Machine, op: ir.ReduceWith) -> list[Tensor]:
    lanes = list(zip(*(m.env[value].unbind(op.dim) for value in op.values), strict=True))
    total = lanes[0]
    for lane in lanes[1:]:
        total = _combine(m, op.combine, total, lane)
    return [t.unsqueeze(op.dim) if op.keepdim else t for t in total]


def _scan(m: Machine, op: ir.Scan) -> list[Tensor]:
    values = [m.env[value] for value in op.values]
    if op.combine is None:
        assert op.name is not None
        return [numerics.scan(op.name, values[0], op.dim, op.reverse, op.result.dtype)]
    lanes = list(zip(*(value.unbind(op.dim) for value in values), strict=True))
    if op.reverse:
        lanes.reverse()
    totals = [lanes[0]]
    for lane in lanes[1:]:
        totals.append(_combine(m, op.combine, totals[-1], lane))
    if op.reverse:
        totals.reverse()
    return [torch.stack(parts, dim=op.dim) for parts in zip(*totals, strict=True)]


def _dot(m: Machine, op: ir.Dot) -> Tensor:
    acc = None if op.acc is None else m.env[op.acc]
    return numerics.dot(m.env[op.lhs], m.env[op.rhs], acc, op.acc_dtype, op.result.dtype)


def _gather(m: Machine, op: ir.Gather) -> Tensor:
    value: Tensor = m.env[op.value]
    index = m.env[op.index].to(torch.int64).clamp(0, value.shape[op.dim] - 1)  # junk lanes
    for axis, size in enumerate(index.shape):
        if axis != op.dim:
            value = value.narrow(axis, 0, size)
    return torch.gather(value, op.dim, index)


def _sort(m: Machine, op: ir.Sort) -> list[Tensor]:
    value: Tensor = m.env[op.value]
    extent = m.extent(op.value.shape[-1])
    values, indices = numerics.sort(value[..., :extent], op.descending, op.k)
    results = [values] + [indices.to(numerics.torch_dtype(r.dtype)) for r in op.results[1:]]
    padded = []
    for result, tensor in zip(op.results, results, strict=True):
        whole = numerics.full(m.shape(result.shape), 0, result.dtype)
        whole[..., : tensor.shape[-1]] = tensor
        padded.append(whole)
    return padded


def _random(m: Machine, op: ir.Random) -> Tensor:
    bits = numerics.philox(m.env[op.seed], m.env[op.offset])
    if op.kind == "uniform":
        return numerics.uniform(bits)
    return bits.to(numerics.torch_dtype(op.result.dtype))


def _inline(m: Machine, op: ir.Inline) -> NoReturn:
    m.fail(op, f"target code for {', '.join(op.targets)} has no meaning outside that target")


# -- control flow ------------------------------------------------------------------------------


def _for_tile(m: Machine, op: ir.ForTile) -> list[Any]:
    carried = [m.env[init] for init in op.inits]
    for run in m._tile_runs(int(m.env[op.begin]), int(m.env[op.end]), op.block):
        carried = m.region(op.body, (run, *carried))
    m.env.pop(op.body.params[0], None)
    return carried


def _for_range(m: Machine, op: ir.ForRange) -> list[Any]:
    carried = [m.env[init] for init in op.inits]
    bounds = (int(m.env[bound]) for bound in (op.begin, op.end, op.step))
    for position in range(*bounds):
        carried = m.region(op.body, (_scalar(position, op.body.params[0]), *carried))
    return carried


def _if(m: Machine, op: ir.If) -> list[Any]:
    return m.block(op.then if bool(m.env[op.cond]) else op.orelse)


def _while(m: Machine, op: ir.While) -> list[Any]:
    carried = [m.env[init] for init in op.inits]
    while bool(m.region(op.cond, carried)[0]):
        carried = m.region(op.body, carried)
    return carried


_EXECUTE: dict[type[Op], Callable[..., Any]] = {
    ir.Const: _const,
    ir.SizeOf: lambda m, op: _scalar(m.extent(op.size), op.result),
    ir.HostScalar: lambda m, op: _scalar(m.scalars[op.name], op.result),
    ir.TileIndex: _tile_index, ir.TileAttr: _tile_attr, ir.Iota: _iota,
    ir.Load: _load, ir.Store: _store, ir.Atomic: _atomic,
    ir.Elementwise: _elementwise, ir.Cast: _cast, ir.Reshape: _reshape,
    ir.Broadcast: _broadcast, ir.Permute: _permute, ir.Join: _join, ir.Split: _split,
    ir.Full: _full, ir.Mask: _mask, ir.Reduce: _reduce, ir.ReduceWith: _reduce_with,
    ir.Scan: _scan, ir.Dot: _dot, ir.Gather: _gather, ir.Sort: _sort, ir.Random: _random,
    ir.Barrier: _nothing, ir.Inline: _inline,
    ir.ForTile: _for_tile, ir.ForRange: _for_range, ir.If: _if, ir.While: _while,
}  # fmt: skip
