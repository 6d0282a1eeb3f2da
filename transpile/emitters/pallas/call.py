"""The call function of a phase: sizes, block sizes, specs and ``pl.pallas_call``."""

from __future__ import annotations

from transpile.emitters.common.layout import WIDTH, expression, filled, wrap
from transpile.emitters.common.tree import MUL, Var
from transpile.emitters.pallas.context import Context
from transpile.emitters.pallas.cost import cost
from transpile.emitters.pallas.dtypes import NAMES, bytes_of, on_device
from transpile.emitters.pallas.plan import Plan
from transpile.emitters.pallas.variation import Choices, Variation, number_formula
from transpile.emitters.pallas.vmem import MIB, UNASKED, Needs, limits, most_of
from transpile.emitters.pallas.windows import Window, WindowDim
from transpile.ir import ir
from transpile.ir.sizes import Atom, Size, Sym


class Call:
    """Text of one call function, made from the plan and what the kernel turned out to need."""

    def __init__(
        self,
        kernel: ir.Kernel,
        plan: Plan,
        ctx: Context,
        keywords: list[Var],
        title: str,
        needs: Needs,
        variation: Variation,
    ) -> None:
        self.kernel = kernel
        self.plan = plan
        self.ctx = ctx
        self.sizes = plan.sizes
        self.keywords = keywords
        self.title = title
        self.variation = variation
        self.total = most_of([needs.total, *variation.totals])
        most = min(limits(plan.schedule.arch).values())
        #: the memory that is needed is computed when the shapes are known
        self.computes = self.total is None or self.total > most
        self.spills = self._products(needs.spills) if self.computes and needs.spills_much else ""
        prefetch = [w for w in plan.windows.inputs if w.space == "prefetch"]
        self.prefetch = prefetch
        self.inputs = [w for w in plan.windows.inputs if w.space != "prefetch"]
        self.outputs = plan.windows.outputs
        self.tensors = list(dict.fromkeys(w.tensor for w in [*prefetch, *self.inputs]))
        names = [t.name for t in kernel.tensors]
        self.tensors.sort(key=lambda t: names.index(t.name))
        self.fresh = {w.tensor.name for w in self.outputs if w.tensor not in self.tensors}
        self.choices = Choices(variation, [t.name for t in self.tensors])
        self.grid = self._grid()
        self.specs = [self._spec(w) for w in self.inputs]
        self.out_specs = [self._spec(w) for w in self.outputs]
        self.out_shapes = [self._out_shape(w) for w in self.outputs]
        self.scratch = [self._scratch(e.text()) for _, e in ctx.scratch]
        self.pipelined = self._pipelined(needs) if self.computes else []
        self.padded: dict[ir.Tensor, str] = {}
        self.padding = self._padding()
        self.cost = self._cost()
        self.extra = self._unknown_sizes()
        self.numbers = {s: self.sizes.hint(s) for s in ctx.numbers}
        self.parameters = [*(t.name for t in self.tensors), *self._scalar_names(),
                           *self.numbers.values(), *self.extra]  # fmt: skip

    # -- pieces --------------------------------------------------------------------------------

    def _grid(self) -> str:
        return _tuple([d.count(self.sizes).text() for d in self.plan.grid])

    def _letters(self) -> str:
        return ", ".join([*(d.letter.name for d in self.plan.grid),
                          *(w.ref.name for w in self.prefetch)])  # fmt: skip

    def _spec(self, window: Window) -> str:
        if window.space == "smem":
            return "pl.BlockSpec(memory_space=pltpu.SMEM)"
        if window.space == "hbm":
            return "pl.BlockSpec(memory_space=pl.ANY)"
        shape = [self._extent(d) for d in window.dims]
        index = ["0" if d.kind == "whole" else d.index.text() for d in window.dims]
        if window.unit:
            shape.insert(-1, "1")
            index.insert(-1, "0")
        if not self.plan.grid:
            return f"pl.BlockSpec({_tuple(shape)})"
        block, where = _tuple(shape), f"lambda {self._letters()}: {_tuple(index)}"
        one = f"pl.BlockSpec({block}, {where})"
        room = WIDTH - (23 if self.prefetch else 17)
        return one if len(one) <= room else _bracketed("pl.BlockSpec(", [block, where])

    def _extent(self, dim: WindowDim) -> str:
        if dim.kind == "squeezed":
            return "None"
        text = self.sizes.expr(dim.size).text()
        if not dim.steps:
            return text
        steps = max(abs(s) for s in dim.steps)
        more = steps if min(dim.steps) < 0 else 0
        if text.isdigit():
            return str(-(-int(text) // steps) * steps + more)
        return f"pl.cdiv({text}, {steps}) * {steps}" + (f" + {more}" if more else "")

    def _out_shape(self, window: Window) -> str:
        if window.view:
            shape = self._rows_shape(window)
        else:
            shape = [self._padded_extent(window, d) for d in range(len(window.tensor.shape))]
        if window.unit:
            shape.insert(-1, "1")
        dims, dtype = _tuple(shape), self._out_dtype(window.tensor)
        one = f"jax.ShapeDtypeStruct({dims}, {dtype})"
        return one if len(one) <= WIDTH - 20 else _bracketed("jax.ShapeDtypeStruct(", [dims, dtype])

    def _out_dtype(self, tensor: ir.Tensor) -> str:
        return self.choices.device_dtype(tensor.name)

    def _scalar_names(self) -> list[str]:
        return [s.name for s in self.kernel.scalars if s.name in self.ctx.scalars]

    # -- sizes ---------------------------------------------------------------------------------

    def _unknown_sizes(self) -> dict[str, Size]:
        """Sizes that no tensor's shape gives, by parameter name."""
        for size in list(self.sizes.variables):  # what they are made of is a variable too
            if _is_block(size):
                self._block_limits(size)
            self._formula(size)
        found: dict[str, Size] = {}
        for size, var in self.sizes.variables.items():
            if _is_block(size) or self._formula(size):
                continue
            if not any(size in t.shape for t in self.tensors) and size not in self.ctx.numbers:
                found[var.name] = size
        return found

    def _unpacking(self) -> list[str]:
        """``m, n = x.shape`` and the like, and block sizes."""
        wanted = {s: v.name for s, v in self.sizes.variables.items()
                  if not _is_block(s) and v.name not in self.extra
                  and not self._formula(s)}  # fmt: skip
        lines: list[str] = []
        for tensor in self.tensors:
            here = {d: wanted[s] for d, s in enumerate(tensor.shape) if s in wanted}
            names: dict[int, str] = {}
            for d, name in here.items():
                if name not in names.values():
                    names[d] = name
            for s in tensor.shape:
                wanted.pop(s, None)
            if not names:
                continue
            rank = len(tensor.shape)
            if len(names) == 1:
                ((d, name),) = names.items()
                lines.append(f"    {name} = {tensor.name}.shape[{d}]")
            else:
                left = ", ".join(names.get(d, "_") for d in range(rank))
                lines.append(f"    {left} = {tensor.name}.shape")
        for size, var in self.sizes.variables.items():
            if text := self._formula(size):
                lines.append(f"    {var.name} = {text}")
        for size, var in self.sizes.variables.items():
            if _is_block(size):
                lines.append(f"    {var.name} = {self._block(size)}")
        return lines

    def _formula(self, size: Size) -> str:
        """``heads // kv_heads`` for a size that no operand has but which is so in all
        signatures."""
        general = self.sizes.general.get(size)
        if general is None or not general.formula:
            return ""
        own = {g: s for s, g in self.sizes.general.items()}
        return general.formula.format(*(self.sizes.expr(own[g]).text() for g in general.parts))

    def _block_limits(self, size: Size) -> list[str]:
        """A block size that is known at run time only, and the dimensions that limit a block."""
        sym = size.as_sym()
        assert sym is not None
        if sym in self.sizes.turns:
            extent, block = self.sizes.turns[sym]
            return [self.sizes.expr(s).text() for s in (extent, Size.of(block))]
        dynamic = self.plan.schedule.dynamic_blocks
        texts = [self.sizes.expr(dynamic[sym]).text()] if sym in dynamic else []
        texts += self.sizes.limits(sym)
        if sym in self.sizes.rows:
            width, least = self.sizes.rows[sym]
            texts.append(f"kt.block_rows({self.sizes.expr(width).text()}, {least})")
        return texts

    def _block(self, size: Size) -> str:
        """Python for a block size: its number, and the dimension that limits it."""
        sym = size.as_sym()
        assert sym is not None
        limits = self._block_limits(size)
        if sym in self.sizes.turns:
            return f"kt.turns({', '.join(limits)})"
        if sym in self.variation.blocks:
            limits.insert(0, self.choices.choose(tuple(map(str, self.variation.blocks[sym]))))
        elif sym not in self.plan.schedule.dynamic_blocks:
            limits.insert(0, str(self.plan.schedule.blocks[sym]))
        return f"min({', '.join(limits)})" if len(limits) > 1 else limits[0]

    def _extras(self) -> list[str]:
        """Keyword arguments of the kernel that differ between signatures."""
        lines: list[str] = []
        for var, values in self.variation.extras:
            text = number_formula(values, self.variation.generals) or self.choices.choose(values)
            if var.name == "precision":
                lines.append("    # One pass of the matrix unit keeps 8 bits, float16 has 11.")
            lines += wrap(f"{var.name} = {text}", 4)
        return lines

    def _widening(self) -> list[str]:
        """f16 operands as f32."""
        names = ", ".join(n for n in self.choices.operands if n in self.variation.widens)
        captured = self.choices.captured.items()
        lines = [f"    {variable} = {tensor}.dtype" for tensor, variable in captured]
        return [*lines, *wrap(f"{names} = kt.widened({names})", 4)] if names else lines

    # -- text ----------------------------------------------------------------------------------

    def text(self) -> str:
        """The function, with ``{call}`` and ``{kernel}`` for the names."""
        call = self._pallas_call()
        body = [*self._unpacking(), *self._extras(), *self.padding]
        results = [self._result(w) for w in self.outputs]
        names = [w.tensor.name for w in self.outputs]
        parameters = [*self.parameters, *self.choices.asked.values()]
        head = wrap("def {call}(" + ", ".join(parameters) + "):", 0)
        lines = [*head, *self._widening(), *body]
        if results == names:
            return "\n".join([*lines, f"    return {call[0].strip()}", *call[1:]])
        suffix = results[0].removeprefix(names[0])
        if len(names) == 1 and len(call[-1]) + len(suffix) <= WIDTH:
            call[-1] += suffix
            return "\n".join([*lines, f"    return {call[0].strip()}", *call[1:]])
        lines += [f"    {', '.join(names)} = {call[0].strip()}", *call[1:]]
        return "\n".join([*lines, f"    return {', '.join(results)}"])

    def _result(self, window: Window) -> str:
        text = window.tensor.name
        if window.view == "lanes" or (window.view and self._is_reshaped(window)):
            text += self._unrolled(window)
        elif window.unit:
            text += ".squeeze(-2)"
        if window in self.plan.windows.hbm.values():
            text += self._cut(window)
        if window.tensor.name in self.variation.widens:
            text += f".astype({self.choices.host_dtype(window.tensor.name)})"
        return text

    def _unrolled(self, window: Window) -> str:
        """What makes the tensor of its matrix of rows or lanes."""
        shape = [self.sizes.expr(s).text() for s in window.tensor.shape]
        if window.view == "rows":
            cut = f"[..., :{shape[-1]}]" if window.parts is not None else ""
            return f"{cut}.reshape({', '.join(shape)})"
        total = Size.of(1)
        for size in window.tensor.shape:
            total = total * size
        text = f".reshape(-1)[:{self.sizes.expr(total).text()}]"
        return text + (f".reshape({', '.join(shape)})" if len(shape) > 1 else "")

    def _is_reshaped(self, window: Window) -> bool:
        return len(window.tensor.shape) != 2 or self._rows_width(window) != window.tensor.shape[-1]

    def _rows_width(self, window: Window) -> Size | str:
        """The length of the rows of a matrix in HBM; cut into parts, it is a multiple of them."""
        width = window.tensor.shape[-1]
        if window.parts is None:
            return width
        parts = self.sizes.expr(window.parts).text()
        return f"pl.cdiv({self.sizes.expr(width).text()}, {parts}) * {parts}"

    def _rows_shape(self, window: Window) -> list[str]:
        total = Size.of(1)
        for size in window.tensor.shape[: None if window.view == "lanes" else -1]:
            total = total * size
        rows = self.sizes.expr(total).text()
        if window.view == "lanes":
            return [f"pl.cdiv({rows}, 128)", "128"]
        width = self._rows_width(window)
        return [rows, width if isinstance(width, str) else self.sizes.expr(width).text()]

    def _scratch(self, text: str) -> str:
        """What allocates a scratch buffer; results are no variables yet."""
        for window in self.outputs:
            if text.endswith(f", {window.tensor.name}.dtype)"):
                head = text.removesuffix(f"{window.tensor.name}.dtype)")
                return f"{head}{self._out_dtype(window.tensor)})"
        return text

    def _pipelined(self, needs: Needs) -> list[str]:
        """The buffers that ``pltpu.emit_pipeline`` makes in the kernel."""
        texts = []
        for copied in needs.pipelined:
            shape = [self.sizes.expr(s).text() for s in copied.blocks if s is not None]
            dtype = self._out_dtype(copied.tensor)
            texts.append(f"pltpu.VMEM({_tuple(['2', *shape])}, {dtype})")
        return texts

    def _padded_extent(self, window: Window, d: int) -> str:
        """A dimension of a result, in whole blocks where the kernel copies such."""
        text = self.sizes.expr(window.tensor.shape[d]).text()
        copied = window in self.plan.windows.hbm.values()
        if not copied or not self._missing(window.tensor, d):
            return text
        block = self._missing(window.tensor, d).rpartition(" % ")[2]
        return f"pl.cdiv({text}, {block}) * {block}"

    def _cut(self, window: Window) -> str:
        """``[:m, :n]`` of a result that has whole blocks."""
        items = [
            f":{self.sizes.expr(s).text()}" if self._missing(window.tensor, d) else ":"
            for d, s in enumerate(window.tensor.shape)
        ]
        while items and items[-1] == ":":
            items.pop()
        return f"[{', '.join(items)}]" if items else ""

    def _padding(self) -> list[str]:
        """Lines that pad what loops copy to whole blocks."""
        lines = []
        for tensor, window in self.plan.windows.hbm.items():
            if window in self.outputs:
                continue
            widths = [self._missing(tensor, d) for d in range(len(tensor.shape))]
            if not any(widths):
                continue
            alone = all(w.space == "hbm" for w in self.inputs if w.tensor is tensor)
            name = tensor.name if alone else f"{tensor.name}_blocks"
            self.padded[tensor] = name
            pairs = ", ".join(f"(0, {w or 0})" for w in widths)
            comma = "," if len(widths) == 1 else ""
            lines += wrap(f"{name} = jnp.pad({tensor.name}, ({pairs}{comma}))", 4)
        return ["    # the kernel copies whole blocks", *lines] if lines else []

    def _missing(self, tensor: ir.Tensor, d: int) -> str:
        """Python for what a dimension lacks to whole blocks; "" where it never lacks anything."""
        extent = tensor.shape[d]
        blocks = {
            c.index[d].tile.type.block  # type: ignore[union-attr]
            for _, copies in self.plan.windows.loops.values()
            for c in copies
            if c.tensor is tensor and isinstance(c.index[d], ir.AtTile)
        }
        if not blocks:
            return ""
        largest = max(blocks, key=lambda b: self.plan.schedule.blocks[b])
        number = self.sizes.block_number(largest)
        if number is not None and extent.divisible_by(number, self.kernel.multiple_of):
            return ""
        block = self.sizes.expr(Size.of(largest)).text()
        return f"-{self.sizes.expr(extent).text()} % {block}"

    def _operand(self, window: Window) -> str:
        text = window.tensor.name
        if window in self.plan.windows.hbm.values():
            return self.padded.get(window.tensor, text)
        if window.view == "lanes":
            text = f"kt.lanes({text})"
        elif window.view and window.parts is not None:
            text = f"kt.rows({text}, {self.sizes.expr(window.parts).text()})"
        elif window.view and len(window.tensor.shape) != 2:
            text = f"kt.rows({text})"
        if window.unit:
            text = f"jnp.expand_dims({text}, -2)"
        return text

    def _spec_entries(self, specs: list[str]) -> list[str]:
        out = self.out_specs
        entries = [f"grid={self.grid}"] if self.plan.grid else []
        entries.append(_list("in_specs", specs))
        entries.append(f"out_specs={out[0]}" if len(out) == 1 else _list("out_specs", out))
        if self.scratch:
            entries.append(_list("scratch_shapes", self.scratch))
        return entries

    def _pallas_call(self) -> list[str]:
        operands = [self._operand(w) for w in [*self.prefetch, *self.inputs]]
        specs = list(self.specs)
        for scalar in self.kernel.scalars:
            if scalar.name in self.ctx.scalars:
                specs.append("pl.BlockSpec(memory_space=pltpu.SMEM)")
                dtype = NAMES[on_device(scalar.dtype)]
                operands.append(f"jnp.full((1,), {scalar.name}, {dtype})")
        for name in self.numbers.values():
            specs.append("pl.BlockSpec(memory_space=pltpu.SMEM)")
            operands.append(f"jnp.full((1,), {name}, jnp.int32)")
        entries: list[str] = [self._function()]
        if self.prefetch:
            inner = [f"num_scalar_prefetch={len(self.prefetch)}", *self._spec_entries(specs)]
            entries.append(_bracketed("grid_spec=pltpu.PrefetchScalarGridSpec(", inner))
        else:
            entries += self._spec_entries(specs)
        shapes = self.out_shapes
        entries.append(f"out_shape={shapes[0]}" if len(shapes) == 1 else _list("out_shape", shapes))
        entries += self._options()
        lines = ["    kt.pallas_call(" if self.computes else "    pl.pallas_call("]
        for entry in entries:
            lines += [f"        {line}" for line in f"{entry},".split("\n")]
        tail = f"    )({', '.join(operands)})"
        if len(tail) <= WIDTH:
            return [*lines, tail]
        return [*lines, "    )(", *filled(operands, 8), "    )"]

    def _function(self) -> str:
        if not self.keywords and not self.variation.extras:
            return "{kernel}"
        names = [*self.keywords, *(var for var, _ in self.variation.extras)]
        pairs = [f"{v.name}={v.name}" for v in names]
        one = f"functools.partial({{kernel}}, {', '.join(pairs)})"
        if len(one) + len(self.title) <= WIDTH - 10:
            return one
        lines = [line[8:] for line in filled(pairs, 12)]
        return "\n".join(["functools.partial(", "    {kernel},", *lines, ")"])

    def _options(self) -> list[str]:
        found = []
        aliases = self._aliases()
        if aliases:
            pairs = ", ".join(f"{i}: {o}" for i, o in aliases.items())
            found.append("input_output_aliases={" + pairs + "}")
        params = []
        if self.plan.grid:
            kinds = ['"arbitrary"' if d.arbitrary else '"parallel"' for d in self.plan.grid]
            params.append(f"dimension_semantics={_tuple(kinds)}")
        # Turns that are written out overlap; the estimate takes them to be one at a time.
        room = (self.total or 0) + (4 * MIB if self.sizes.turns else 0)
        if not self.computes and room > UNASKED:
            params.append(f"vmem_limit_bytes={-(-room // MIB)} << 20")
        if params:
            one = f"compiler_params=pltpu.CompilerParams({', '.join(params)})"
            head = "compiler_params=pltpu.CompilerParams("
            found.append(one if len(one) <= WIDTH - 9 else _bracketed(head, params))
        if self.pipelined:
            found.append(_list("pipeline_buffers", self.pipelined))
        if self.spills not in ("", "0"):
            found.append(f"spilled_bytes={self.spills}")
        found += [self.cost] if self.cost else []
        return [*found, f'name="{self.title}"', "interpret=kt.INTERPRET"]

    def _cost(self) -> str:
        """``cost_estimate=...``, where the sizes of what is read and computed give one."""
        windows = [*self.inputs, *self.outputs]
        found = cost(self.plan)
        if found is None or self.prefetch or any(w.space == "hbm" for w in windows):
            return ""
        sizes = {s for t in {w.tensor for w in windows} for s in t.shape}
        known = {sym for size in sizes for sym in size.syms}
        named = {sym for size in self.sizes.variables for sym in size.syms}
        wanted = found.flops.syms | found.transcendentals.syms
        if not wanted <= known | named | set(self.sizes.opened):
            return ""
        moved: dict[str, int] = {}
        for text in [self._bytes(w) for w in windows if w.space == "vmem"]:
            moved[text] = moved.get(text, 0) + 1
        terms = [text if n == 1 else f"{n} * {text}" for text, n in moved.items()]
        entries = [
            _keyword("flops", self._products(found.flops)),
            _keyword("bytes_accessed", " + ".join(terms)),
            _keyword("transcendentals", self._products(found.transcendentals)),
        ]
        one = f"cost_estimate=pl.CostEstimate({', '.join(entries)})"
        if len(one) <= WIDTH - 9 and "\n" not in one:
            return one
        return _bracketed("cost_estimate=pl.CostEstimate(", entries)

    def _bytes(self, window: Window) -> str:
        """Bytes of a tensor: an operand's, or those of an operand of its shape and type."""
        dtype = self._out_dtype(window.tensor)
        for tensor in self.tensors:
            alike = tensor.shape == window.tensor.shape
            if tensor is window.tensor or (alike and self._out_dtype(tensor) == dtype):
                return f"{tensor.name}.nbytes"
        known = dtype.endswith(".dtype")
        factors = [self._factor(size) for size in window.tensor.shape]
        if known:
            return " * ".join([*factors, f"{dtype}.itemsize"])
        return " * ".join([str(bytes_of(window.tensor.dtype)), *factors])

    def _factor(self, size: Size) -> str:
        expr = self.sizes.expr(size)
        return f"({expr.text()})" if expr.prec < MUL else expr.text()

    def _products(self, size: Size) -> str:
        """A sum of products: numbers in front, then dimensions in the order of the results'."""
        windows = [*self.plan.windows.outputs, *self.plan.windows.inputs]
        dims = list(dict.fromkeys(s for w in windows for s in w.tensor.shape))
        terms = []
        for mono, coeff in size.terms:
            left, found = list(mono), list[Size]()
            for dim in dims:  # b * h is one dimension of some tensors
                while (rest := _without(left, dim)) is not None:
                    found.append(dim)
                    left = rest
            factors = [str(coeff)] if coeff != 1 or not mono else []
            rest_of = [self._closed(atom) for atom in left]
            factors += map(self._factor, [*rest_of, *found])
            terms.append(" * ".join(factors))
        return " + ".join(terms) or "0"

    def _closed(self, atom: Atom) -> Size:
        known = self.sizes.opened.get(atom) if isinstance(atom, Sym) else None
        return Size((((atom,), 1),)) if known is None else known

    def _aliases(self) -> dict[int, int]:
        found = {}
        inputs = [*self.prefetch, *self.inputs]
        for number, window in enumerate(self.outputs):
            old = self.plan.windows.initial.get(window.tensor)
            if old is not None and old in inputs:
                found[inputs.index(old)] = number
        return found


def _without(mono: list[Atom], dim: Size) -> list[Atom] | None:
    """A product without the factors of a dimension that is a product; None if it lacks one."""
    if len(dim.terms) != 1 or dim.terms[0][1] != 1 or not dim.terms[0][0]:
        return None
    left = list(mono)
    for atom in dim.terms[0][0]:
        if atom not in left:
            return None
        left.remove(atom)
    return left


def _is_block(size: Size) -> bool:
    sym = size.as_sym()
    return sym is not None and sym.kind == "block"


def _tuple(items: list[str]) -> str:
    return f"({', '.join(items)}{',' if len(items) == 1 else ''})"


def _list(name: str, items: list[str]) -> str:
    one = f"{name}=[{', '.join(items)}]"
    if len(one) <= WIDTH - 12 and "\n" not in one:
        return one
    entries = ["    " + item.replace("\n", "\n    ") + "," for item in items]
    return "\n".join([f"{name}=[", *entries, "]"])


def _keyword(name: str, value: str) -> str:
    """``name=value``, an argument on lines of its own, 12 columns in."""
    if len(name) + len(value) + 14 <= WIDTH:
        return f"{name}={value}"
    lines = [line[12:] for line in expression(value, 16)]
    return "\n".join([f"{name}=(", *lines, ")"])


def _bracketed(head: str, entries: list[str]) -> str:
    lines = [head]
    for entry in entries:
        lines += [f"    {line}" for line in f"{entry},".split("\n")]
    return "\n".join([*lines, ")"])
