"""Text of the Tile IR, for people: ``kt ir``, error messages and test expectations.

The text depends on the kernel only, never on hashes or object identities. Its grammar::

    kernel    = "kernel" NAME "(" signature ")" NEWLINE { header } { host } { phase }
    header    = "param" ... | "tensor" NAME ":" type "strides" sizes "=" PYTHON | "scalar" ...
              | "block" NAME facts | "size" SIZE "=" PYTHON | "fact" SYM "%" INT | "index" DTYPE
    host      = "host" "{" { "|" SOURCE LINE | "launch" INT } "}"
    phase     = "phase" INT "loop" INT "grid" "(" { VALUE ":" axis } ")" "{" { op } "}"
    axis      = "tile[" BLOCK "]" "in" SIZE ".." SIZE | "index" "in" SIZE ".." SIZE ["step" INT]
    op        = [ VALUE ":" type { "," VALUE ":" type } "=" ] OPERATION [ region ]
    region    = "{" { op } [ "yield" { VALUE } ] "}" [ KEYWORD region ]
    type      = DTYPE [ "[" { SIZE } "]" ] | "tile[" BLOCK "]"
    index     = "[" { %tile | %tile + %offset | @%scalar | : | %start:+LENGTH
              | 0:+LENGTH | %tile_of_indices -> (AXES) } "]"
    guard     = AXIS "<" ( %tile | "extent" )

A value is ``%`` and its source name, with ``.1``, ``.2`` ... for later ones of the same name, or a
number in order of definition. ``guard(0 < %tile_m, 1 < extent)`` reads: lanes of axis 0 within
the tile's loop, lanes of axis 1 within the axis's own extent.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

from transpile.ir import ir
from transpile.ir.ir import Block, Guard, Index, Kernel, Op, Phase, Value
from transpile.ir.sizes import Size

_INDENT = "  "


def format_kernel(kernel: Kernel) -> str:
    """The whole kernel as text, ending in a newline."""
    names = Names()
    lines = [f"kernel {kernel.name}({kernel.signature}) {{"]
    lines += [_INDENT + line for line in _header(kernel)]
    lines += [_INDENT + line for line in _host(kernel)]
    for number, phase in enumerate(kernel.phases):
        lines += [_INDENT + line for line in _phase(number, phase, names)]
    return "\n".join([*lines, "}"]) + "\n"


def format_type(type_: ir.Type) -> str:
    """``f32[BLOCK_M, K]``, ``i32`` for a scalar, ``tile[BLOCK_M]`` for a tile variable."""
    if isinstance(type_, ir.TileVar):
        return f"tile[{type_.block}]"
    return f"{type_.dtype}[{_sizes(type_.shape)}]" if type_.shape else str(type_.dtype)


def show_types(types: Iterable[ir.Type]) -> str:
    """``(f32[BLOCK_M, K], i32)``, for messages."""
    return f"({', '.join(format_type(t) for t in types)})"


def show_shape(shape: Iterable[Size]) -> str:
    """``[BLOCK_M, K]``, for messages."""
    return f"[{_sizes(shape)}]"


def format_op(op: Op, names: Names | None = None) -> str:
    """One operation, its regions included."""
    return "\n".join(_op_lines(op, names or Names()))


class Names:
    """Assigns printed names to values in the order in which they are first asked for."""

    def __init__(self) -> None:
        self._names: dict[Value, str] = {}
        self._taken: set[str] = set()
        self._next = 0

    def __call__(self, value: Value) -> str:
        if value not in self._names:
            self._names[value] = self._fresh(value.name)
        return self._names[value]

    def _fresh(self, hint: str | None) -> str:
        if hint is None:
            self._next += 1
            return f"%{self._next - 1}"
        name, suffix = f"%{hint}", 0
        while name in self._taken:
            suffix += 1
            name = f"%{hint}.{suffix}"
        self._taken.add(name)
        return name

    def typed(self, value: Value) -> str:
        return f"{self(value)}: {format_type(value.type)}"

    def list(self, values: Iterable[Value]) -> str:
        return ", ".join(self(v) for v in values)


def _sizes(sizes: Iterable[Size]) -> str:
    return ", ".join(str(s) for s in sizes)


# -- kernel level ------------------------------------------------------------------------------


def _header(kernel: Kernel) -> list[str]:
    lines = []
    for param in kernel.params:
        value = f" = {param.value!r}" if param.kind == "constexpr" else ""
        lines.append(f"param {param.name}: {param.kind}{value}")
    for tensor in kernel.tensors:
        type_ = format_type(ir.TileType(tensor.dtype, tensor.shape))
        param_note = f" of param {tensor.param}" if tensor.param else ""
        strides = f" strides ({_sizes(tensor.strides)})"
        lines.append(f"tensor {tensor.name}: {type_}{strides} = `{tensor.host}`{param_note}")
    lines += [f"scalar {s.name}: {s.dtype} = `{s.host}`" for s in kernel.scalars]
    lines += [_block_size(block) for block in kernel.blocks]
    lines += [f"size {size} = `{text}`" for size, text in kernel.size_names]
    lines += [f"relation {size} = `{text}`" for size, text in kernel.relations]
    facts = sorted(kernel.multiple_of.items(), key=lambda item: item[0].name)
    lines += [f"fact {sym} % {divisor} == 0" for sym, divisor in facts]
    if kernel.index_dtype is not None:
        lines.append(f"index {kernel.index_dtype}")
    lines += [f"config {key} = {kernel.config[key]!r}" for key in sorted(kernel.config)]
    return lines


def _block_size(block: ir.BlockSize) -> str:
    text = f"block {block.sym}"
    if block.fixed is not None:
        text += f" fixed {block.fixed}"
    if block.minimum != 1:
        text += f" min {block.minimum}"
    if block.maximum is not None:
        text += f" max {block.maximum}"
    return text + (f" tiles ({_sizes(block.extents)})" if block.extents else "")


def _host(kernel: Kernel) -> list[str]:
    lines = ["host {"]
    for part in kernel.host:
        if isinstance(part, ir.Launch):
            lines.append(f"{_INDENT}{_INDENT * 2 * part.indent}launch {part.phase}")
        else:
            lines += [f"{_INDENT}| {line}".rstrip() for line in part.text.splitlines()]
    return [*lines, "}"]


def _phase(number: int, phase: Phase, names: Names) -> list[str]:
    axes = ", ".join(_grid_axis(axis, names) for axis in phase.axes)
    head = f"phase {number} loop {phase.loop} grid ({axes}) {{"
    return [head, *_body(phase.body, names), "}"]


def _grid_axis(axis: ir.GridAxis, names: Names) -> str:
    kind = f"tile[{axis.block}]" if axis.block else "index"
    step = f" step {axis.step}" if axis.step != 1 else ""
    return f"{names(axis.var)}: {kind} in {axis.begin}..{axis.end}{step}"


# -- operations --------------------------------------------------------------------------------


def _body(block: Block, names: Names) -> list[str]:
    lines = [_INDENT + line for op in block.ops for line in _op_lines(op, names)]
    if block.yields:
        lines.append(f"{_INDENT}yield {names.list(block.yields)}")
    return lines


def _op_lines(op: Op, names: Names) -> list[str]:
    """The lines of an operation. Operands are named before results: they were defined before."""
    structured = _structured(op, names)
    if structured is not None:
        return structured
    text = _simple(op, names)
    results = ", ".join(names.typed(r) for r in op.results)
    return [f"{results} = {text}" if results else text]


def _structured(op: Op, names: Names) -> list[str] | None:
    """Operations with regions; None for the others."""
    if isinstance(op, (ir.ForTile, ir.ForRange)):
        step = f" step {names(op.step)}" if isinstance(op, ir.ForRange) else ""
        bounds = f"{names(op.begin)}..{names(op.end)}{step}"
        carried = _carried(op.body.params[1:], op.inits, names)
        var = names.typed(op.body.params[0])
        kind = "for_tile" if isinstance(op, ir.ForTile) else "for_range"
        head = f"{kind} {var} in {bounds} loop {op.loop}{carried}"
        sections = [(head, op.body)]
    elif isinstance(op, ir.While):
        cond = _carried(op.cond.params, op.inits, names)
        sections = [(f"while{cond}", op.cond)]
        sections.append((f"do ({', '.join(names.typed(p) for p in op.body.params)})", op.body))
    elif isinstance(op, ir.If):
        sections = [(f"if {names(op.cond)}", op.then), ("else", op.orelse)]
    elif isinstance(op, ir.ReduceWith):
        keep = " keepdim" if op.keepdim else ""
        head = f"reduce_with {names.list(op.values)} dim {op.dim}{keep}"
        sections = [(f"{head} ({_params(op.combine, names)})", op.combine)]
    elif isinstance(op, ir.Scan) and op.combine is not None:
        sections = [(f"{_scan(op, names)} ({_params(op.combine, names)})", op.combine)]
    else:
        return None
    lines: list[str] = []
    for head, block in sections:
        lines[-1:] = [f"{lines[-1]} {head} {{" if lines else f"{head} {{"]
        lines += [*_body(block, names), "}"]
    results = ", ".join(names.typed(r) for r in op.results)
    return [f"{results} = {lines[0]}" if results else lines[0], *lines[1:]]


def _carried(params: tuple[Value, ...], inits: tuple[Value, ...], names: Names) -> str:
    texts = [f"{names.typed(p)} = {names(i)}" for p, i in zip(params, inits, strict=False)]
    return f" carry ({', '.join(texts)})" if texts else ""


def _params(block: Block, names: Names) -> str:
    return ", ".join(names.typed(p) for p in block.params)


def _scan(op: ir.Scan, names: Names) -> str:
    reverse = " reverse" if op.reverse else ""
    return f"scan {op.name or 'with'} {names.list(op.values)} dim {op.dim}{reverse}"


def _simple(op: Op, names: Names) -> str:
    """An operation without regions, without its results."""
    if isinstance(op, (ir.Load, ir.Store, ir.Atomic)):
        return _access(op, names)
    if isinstance(op, (ir.Const, ir.SizeOf, ir.HostScalar, ir.TileIndex, ir.TileAttr, ir.Iota)):
        return _leaf(op, names)
    if isinstance(op, (ir.Elementwise, ir.Cast, ir.Full, ir.Mask, ir.Random, ir.Inline)):
        return _compute(op, names)
    if isinstance(op, (ir.Reshape, ir.Broadcast, ir.Permute, ir.Join, ir.Split)):
        return _shuffle(op, names)
    if isinstance(op, (ir.Reduce, ir.Scan, ir.Dot, ir.Gather, ir.Sort)):
        return _across(op, names)
    return "barrier" if isinstance(op, ir.Barrier) else type(op).__name__


_Leaf = ir.Const | ir.SizeOf | ir.HostScalar | ir.TileIndex | ir.TileAttr | ir.Iota


def _leaf(op: _Leaf, names: Names) -> str:
    match op:
        case ir.Const():
            return f"const {op.value!r}"
        case ir.SizeOf():
            return f"size {op.size}"
        case ir.HostScalar():
            return f"scalar {op.name}"
        case ir.TileIndex():
            return f"index {names(op.tile)}"
        case ir.TileAttr():
            return f"{op.attr} {names(op.tile)}"
        case ir.Iota():
            return f"iota {op.start} step {op.step}"
        case _:
            assert_never(op)


def _access(op: ir.Load | ir.Store | ir.Atomic, names: Names) -> str:
    entries = ", ".join(_entry(e, op.tensor, d, names) for d, e in enumerate(op.index))
    place = f"{op.tensor.name}[{entries}]"
    guards = f" {_guards(op.guards, names)}" if op.guards else ""
    mask = f" mask {names(op.mask)}" if op.mask is not None else ""
    if isinstance(op, ir.Load):
        eviction = f" eviction {op.eviction}" if op.eviction else ""
        return f"load {place}{guards}{mask}{eviction}"
    if isinstance(op, ir.Store):
        return f"store {place}, {names(op.value)}{guards}{mask}"
    expected = f" expected {names(op.expected)}" if op.expected is not None else ""
    text = f"atomic_{op.kind} {place}, {names(op.value)}{expected}"
    return f"{text}{guards}{mask} sem {op.sem}"


def _entry(entry: Index, tensor: ir.Tensor, dim: int, names: Names) -> str:
    match entry:
        case ir.AtTile():
            offset = f" + {names(entry.offset)}" if entry.offset is not None else ""
            return f"{names(entry.tile)}{offset}"
        case ir.AtScalar():
            return f"@{names(entry.value)}"
        case ir.AtSlice():
            full = dim < len(tensor.shape) and entry.length == tensor.shape[dim]
            if entry.start is None:
                return ":" if full else f"0:+{entry.length}"
            return f"{names(entry.start)}:+{entry.length}"
        case ir.AtTensor():
            return f"{names(entry.value)} -> ({', '.join(map(str, entry.dims))})"
        case _:
            assert_never(entry)


def _guards(guards: tuple[Guard, ...], names: Names) -> str:
    texts = (f"{g.dim} < {'extent' if g.tile is None else names(g.tile)}" for g in guards)
    return f"guard({', '.join(texts)})"


_Compute = ir.Elementwise | ir.Cast | ir.Full | ir.Mask | ir.Random | ir.Inline


def _compute(op: _Compute, names: Names) -> str:
    match op:
        case ir.Elementwise():
            return f"{op.name} {names.list(op.args)}"
        case ir.Cast():
            return f"{'bitcast' if op.bitcast else 'cast'} {names(op.value)}"
        case ir.Full():
            return f"full {names(op.value)}"
        case ir.Mask():
            return f"mask {names(op.value)} {_guards(op.guards, names)} fill {op.fill!r}"
        case ir.Random():
            return f"random {op.kind} seed {names(op.seed)} offset {names(op.offset)}"
        case ir.Inline():
            targets = ",".join(op.targets)
            return f"inline {op.kind} for {targets} ({names.list(op.args)}) {op.code!r}"
        case _:
            assert_never(op)


_Shuffle = ir.Reshape | ir.Broadcast | ir.Permute | ir.Join | ir.Split


def _shuffle(op: _Shuffle, names: Names) -> str:
    match op:
        case ir.Reshape():
            return f"reshape {names(op.value)}"
        case ir.Broadcast():
            return f"broadcast {names(op.value)}"
        case ir.Permute():
            return f"permute {names(op.value)} ({', '.join(map(str, op.order))})"
        case ir.Join():
            return f"join {names(op.lhs)}, {names(op.rhs)}"
        case ir.Split():
            return f"split {names(op.value)}"
        case _:
            assert_never(op)


_Across = ir.Reduce | ir.Scan | ir.Dot | ir.Gather | ir.Sort


def _across(op: _Across, names: Names) -> str:
    match op:
        case ir.Reduce():
            keep = " keepdim" if op.keepdim else ""
            return f"reduce {op.name} {names(op.value)} dim {op.dim}{keep}"
        case ir.Scan():
            return _scan(op, names)
        case ir.Dot():
            acc = f" acc {names(op.acc)}" if op.acc is not None else ""
            operands = f"{names(op.lhs)}, {names(op.rhs)}{acc}"
            return f"dot {operands} in {op.acc_dtype} precision {op.precision}"
        case ir.Gather():
            return f"gather {names(op.value)}, {names(op.index)} dim {op.dim}"
        case ir.Sort():
            k = f" k {op.k}" if op.k is not None else ""
            order = "descending" if op.descending else "ascending"
            return f"sort {names(op.value)} {order}{k}"
        case _:
            assert_never(op)
