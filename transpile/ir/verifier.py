"""Structural and type checks of the IR.

Run on the frontend's output and after every pass (in tests). A violation is a bug of kt, never of
the user's source, so everything found is listed in one :class:`VerifyError`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from transpile.ir import ir
from transpile.ir.ir import Block, Guard, Kernel, Op, TileType, TileVar, Value
from transpile.ir.opchecks import CHECKS
from transpile.ir.printer import format_op, show_shape, show_types
from transpile.ir.sizes import Size, Sym
from transpile.ir.walk import operands


class VerifyError(Exception):
    """The IR breaks its own rules. ``violations`` has one line for each breach."""

    def __init__(self, kernel: str, violations: Sequence[str]) -> None:
        self.violations = tuple(violations)
        listing = "\n".join(f"  - {v}" for v in violations)
        super().__init__(f"internal error: invalid IR for kernel {kernel}:\n{listing}")


def verify(kernel: Kernel) -> None:
    """Raise :class:`VerifyError` unless the kernel is well formed."""
    violations = Verifier(kernel).run()
    if violations:
        raise VerifyError(kernel.name, violations)


class Verifier:
    """One run over a kernel; collects violations instead of stopping at the first."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.violations: list[str] = []
        self.visible: set[Value] = set()
        self.defined: set[Value] = set()
        self.where: Op | None = None
        self.blocks = {b.sym for b in kernel.blocks}
        self.scalars = {s.name: s for s in kernel.scalars}

    def run(self) -> list[str]:
        self._declarations()
        for number, phase in enumerate(self.kernel.phases):
            with self.scope():
                self._phase(number, phase)
        return self.violations

    def fail(self, message: str) -> None:
        if self.where is None:
            self.violations.append(message)
            return
        op = format_op(self.where).splitlines()[0]
        line = f"line {self.where.span.line}: " if self.where.span else ""
        self.violations.append(f"{line}{message} in `{op}`")

    def check(self, condition: bool, message: str) -> bool:
        if not condition:
            self.fail(message)
        return condition

    @contextmanager
    def scope(self) -> Iterator[None]:
        outer, self.visible = self.visible, set(self.visible)
        yield
        self.visible = outer

    def _define(self, value: Value) -> None:
        self.check(value not in self.defined, f"value {value.name} is defined twice")
        self.defined.add(value)
        self.visible.add(value)
        if isinstance(value.type, TileVar):
            self.declared(value.type.block)
        else:
            for size in value.type.shape:
                for sym in size.syms:
                    self.declared(sym)

    def declared(self, sym: Sym) -> None:
        if sym.kind == "block":
            self.check(sym in self.blocks, f"block size {sym} is not declared")

    # -- kernel level ----------------------------------------------------------------------

    def _declarations(self) -> None:
        names = [t.name for t in self.kernel.tensors] + [s.name for s in self.kernel.scalars]
        for name in sorted({n for n in names if names.count(n) > 1}):
            self.fail(f"two tensors or scalars are called {name}")
        for tensor in self.kernel.tensors:
            ranks = len(tensor.shape), len(tensor.strides)
            self.check(ranks[0] == ranks[1], f"tensor {tensor.name} has shape/stride ranks {ranks}")
        launched = [part.phase for part in self.kernel.host if isinstance(part, ir.Launch)]
        for number in launched:
            self.check(0 <= number < len(self.kernel.phases), f"launch of unknown phase {number}")
        for number in range(len(self.kernel.phases)):
            self.check(number in launched, f"phase {number} is never launched")

    def _phase(self, number: int, phase: ir.Phase) -> None:
        self.where = None
        self.check(bool(phase.axes), f"phase {number} has no grid axis")
        for axis in phase.axes:
            self._define(axis.var)
            if axis.block is not None:
                self.check(axis.var.type == TileVar(axis.block), f"grid axis {axis.var.name} type")
            else:
                scalar = isinstance(axis.var.type, TileType) and not axis.var.shape
                self.check(scalar, f"grid axis {axis.var.name} without block is no scalar")
        self.body(phase.body, ())
        self.check(not phase.body.yields, f"phase {number} yields values")

    def body(self, block: Block, params: Sequence[ir.Type]) -> None:
        """Check a region whose parameters should have the given types."""
        types = tuple(p.type for p in block.params)
        self.check(types == tuple(params), f"region parameters are {show_types(types)}")
        for param in block.params:
            self._define(param)
        outer = self.where
        for op in block.ops:
            self._op(op)
        self.where = outer
        for value in block.yields:
            self.check(value in self.visible, f"yield of {value.name}, which is not in scope")

    def _op(self, op: Op) -> None:
        self.where = op
        for value in operands(op):
            if not self.check(value in self.visible, f"{value.name} is used before definition"):
                self.visible.add(value)
        check = CHECKS.get(type(op))
        try:
            if check is None:
                self.fail(f"unknown operation {type(op).__name__}")
            else:
                check(self, op)
        except (AssertionError, AttributeError, IndexError) as problem:
            self.fail(f"malformed operation ({type(problem).__name__}: {problem})")
        self.where = op
        for result in op.results:
            self._define(result)

    # -- helpers for the checks of operations ------------------------------------------------

    def results(self, op: Op, *types: ir.Type) -> None:
        """The operation's results have exactly these types."""
        got = tuple(r.type for r in op.results)
        self.check(got == types, f"results are {show_types(got)}, not {show_types(types)}")

    def scalar(self, value: Value | None, what: str) -> None:
        if value is not None:
            ok = isinstance(value.type, TileType) and not value.shape
            self.check(ok, f"{what} is no scalar")

    def integer(self, value: Value | None, what: str) -> None:
        if value is not None:
            self.check(value.dtype.is_int, f"{what} has dtype {value.dtype}")

    def guards(self, guards: Sequence[Guard], shape: Sequence[Size]) -> None:
        for guard in guards:
            if not self.check(0 <= guard.dim < len(shape), f"guard of axis {guard.dim}"):
                continue
            if guard.tile is None:
                continue
            if self.check(isinstance(guard.tile.type, TileVar), "a guard's tile is no tile"):
                block = guard.tile.type.block  # type: ignore[union-attr]
                size = shape[guard.dim]
                message = f"guard of axis {guard.dim} of size {size} by a tile of {block}"
                self.check(size == Size.of(block), message)

    def fits(self, value: Value, shape: Sequence[Size], what: str) -> None:
        """``value`` broadcasts to ``shape`` (aligned at the last axis)."""
        got = value.shape
        ok = len(got) <= len(shape) and all(
            a == b or a.as_int() == 1
            for a, b in zip(reversed(got), reversed(tuple(shape)), strict=False)
        )
        self.check(ok, f"{what} of shape {show_shape(got)} does not fit {show_shape(shape)}")

    def reduced(self, shape: Sequence[Size], dim: int, keepdim: bool) -> tuple[Size, ...]:
        self.check(0 <= dim < len(shape), f"axis {dim} of a value of rank {len(shape)}")
        kept = (Size.of(1),) if keepdim else ()
        return (*shape[:dim], *kept, *shape[dim + 1 :])

    def loop(self, op: Op, var: ir.Type, inits: Sequence[Value], body: Block) -> None:
        """A loop region: parameters (var, carried...), yields and results of carried types."""
        carried = tuple(v.type for v in inits)
        with self.scope():
            self.body(body, (var, *carried))
            self.yields(body, carried)
        self.results(op, *carried)

    def yields(self, block: Block, types: Sequence[ir.Type]) -> None:
        got = tuple(v.type for v in block.yields)
        self.check(got == tuple(types), f"yields are {show_types(got)}, not {show_types(types)}")
