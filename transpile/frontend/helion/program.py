"""One kernel for one signature: the host program, its phases, the finished ir.Kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import libcst as cst

from transpile.frontend.builder import Builder, describe
from transpile.frontend.facts import Facts
from transpile.frontend.helion.assemble import LAUNCH_MARK, Assembly
from transpile.frontend.helion.hosttext import HostText
from transpile.frontend.helion.kernels import KernelSite
from transpile.frontend.helion.scan import assigned_names, body_of
from transpile.frontend.source import ParsedSource
from transpile.frontend.symbolic import HostShape
from transpile.frontend.values import (
    Env,
    Function,
    HostNumber,
    HostTensor,
    Known,
    Method,
    Opaque,
    Scalar,
    Tile,
)
from transpile.ir import ir
from transpile.ir.diagnostics import error
from transpile.ir.dtypes import I32, I64
from transpile.ir.sizes import Size, Sym

PHASE_LOOPS = ("helion.language.tile", "helion.language.grid")


class HostReturn(Exception):
    """The host program returns here, whatever the run time brings."""


class Program(Assembly):
    """Evaluates a kernel function under given facts."""

    def __init__(
        self, source: ParsedSource, site: KernelSite, config: dict[str, Any], facts: Facts
    ) -> None:
        wide = config.get("index_dtype") in (I64, "int64", "i64")
        super().__init__(source, Builder(I64 if wide else I32), config)
        self.site = site
        self.facts = facts
        self.assumed = facts.assumed
        self.env = Env(outer=site.env)
        self.text = HostText(source)
        self.phases: list[ir.Phase] = []
        self.scalars: dict[str, ir.Scalar] = {}
        self.comments: dict[int, str] = {}
        self.size_names: dict[tuple[Size, str], None] = {}
        self.register_tensor = self._register
        self.b.reconcile = facts.reconcile
        self.integers = 0  # computed host integers named so far
        self.conditional = 0  # depth of host branches that only the run time decides
        self.host_handlers: dict[type, Callable[[Any], None]] = {
            cst.SimpleStatementLine: self._host_line,
            cst.Assign: self._host_assign,
            cst.AnnAssign: self._host_ann_assign,
            cst.AugAssign: self._host_aug_assign,
            cst.Expr: lambda node: self.eval(node.value, self.env),
            cst.Assert: self._host_assert,
            cst.Return: self._host_return,
            cst.If: self._host_if,
            cst.For: self._host_for,
            cst.With: self._host_with,
            cst.FunctionDef: self._host_function,
            cst.While: self._host_unknown,
            cst.Try: self._host_unknown,
        }
        site.locate(source)

    # -- the host program ------------------------------------------------------------------

    def execute(self) -> None:
        """Evaluate the whole host program; fills phases, tensors and texts."""
        try:
            for statement in self.statements_of_host():
                self.host_statement(statement)
        except HostReturn:
            pass
        if not self.phases:
            raise error(
                "KT0103",
                f"kernel '{self.site.name}' has no device loop",
                self.source.span(self.site.node.name),
                why="a kernel is a 'for' over hl.tile or hl.grid in its host program",
                remedy="add the loop, or take the decorator away",
            )

    def host_statement(self, node: cst.CSTNode) -> None:
        saved = self.b.span
        self.b.span = self.source.span(node) or saved
        try:
            self._host_statement(node)
        finally:
            self.b.span = saved

    def _host_statement(self, node: cst.CSTNode) -> None:
        handler = self.host_handlers.get(type(node))
        if handler is not None:
            handler(node)

    def _host_line(self, node: cst.SimpleStatementLine) -> None:
        for small in node.body:
            self.host_statement(small)
        self._drop_empty(node)

    def _host_assign(self, node: cst.Assign) -> None:
        value = self._value_for(node.targets[0].target, node.value, self.env)
        for target in node.targets:
            self.host_bind(target.target, value)

    def _host_ann_assign(self, node: cst.AnnAssign) -> None:
        if node.value is not None:
            self.host_bind(node.target, self._value_for(node.target, node.value, self.env))

    def _host_aug_assign(self, node: cst.AugAssign) -> None:
        if isinstance(node.target, cst.Name):
            old = self.eval(node.target, self.env)
            new = self.binary(type(node.operator), old, self.eval(node.value, self.env))
            self.host_bind(node.target, new)

    def _host_function(self, node: cst.FunctionDef) -> None:
        self.env.names[node.name.value] = Function(node, self.env, node.name.value)

    def _host_with(self, node: cst.With) -> None:
        for statement in body_of(node):
            self.host_statement(statement)

    def _host_unknown(self, node: cst.CSTNode) -> None:
        for name in assigned_names([node]):
            self.env.names[name] = Opaque(f"'{name}', assigned in a host loop")

    def host_bind(self, target: cst.CSTNode, value: Any) -> None:
        if isinstance(target, cst.Name):
            self.bind_name(target.value, value, self.env)
        elif isinstance(target, (cst.Tuple, cst.List)):
            self.bind(target, value, self.env)

    def bind_name(self, name: str, value: Any, env: Env) -> None:
        if isinstance(value, HostNumber) and not self.on_device:
            value = self._named_number(value, name)
        if isinstance(value, HostTensor) and not self.on_device:
            value.host = name
        super().bind_name(name, value, env)

    def _named_number(self, value: HostNumber, name: str) -> Any:
        """A computed host number takes its variable's name; an integer becomes a symbol."""
        if not value.dtype.is_int:
            return HostNumber(value.dtype, name)
        self.integers += 1
        suffix = "" if self.integers == 1 and name not in self.facts.stated else f"_{self.integers}"
        return Size.of(Sym(f"{name}{suffix}", "scalar"))

    def _drop_empty(self, node: cst.SimpleStatementLine) -> None:
        """Statements that only speak to helion leave no text."""
        for small in node.body:
            if isinstance(small, cst.Expr) and isinstance(small.value, cst.Call):
                func = self.eval(small.value.func, self.env)
                if isinstance(func, Known) and func.name.startswith("helion."):
                    self.text.drop(node)

    def _host_assert(self, node: cst.Assert) -> None:
        self.learn(node.test)
        if self.truth(self.eval(node.test, self.env)) is False and not self.conditional:
            raise error(
                "KT0303",
                "this assertion is false for the given signature",
                self.source.span(node),
                remedy="correct the signature or the assertion",
            )

    def _host_return(self, node: cst.Return) -> None:
        if node.value is not None:
            self.eval(node.value, self.env)
        if not self.conditional:
            raise HostReturn

    def _host_if(self, node: cst.If) -> None:
        truth = self.truth(self.eval(node.test, self.env))
        if truth is not None:
            if truth:
                self._run_host(node)
            elif node.orelse is not None:
                self._host_branch(node.orelse)
            return
        self.conditional += 1
        before = dict(self.env.names)
        self._host_branch(node, taken=True)
        then_env = dict(self.env.names)
        self.env.names.clear()
        self.env.names.update(before)
        if node.orelse is not None:
            self._host_branch(node.orelse)
        self.conditional -= 1
        for name in dict.fromkeys([*then_env, *self.env.names]):
            a, b = then_env.get(name, _MISSING), self.env.names.get(name, _MISSING)
            if a is not b:
                merged = Opaque(f"'{name}', assigned in one branch only")
                value = merged if _MISSING in (a, b) else self.merge_host(a, b)
                self.env.names.pop(name, None)
                self.bind_name(name, value, self.env)

    def _host_branch(self, node: Any, taken: bool = False) -> None:
        """The body of a branch: the ``if`` part when ``taken``, an ``elif`` chain, or an else."""
        if not isinstance(node, cst.If) or taken:
            self._run_host(node)
            return
        truth = self.truth(self.eval(node.test, self.env))
        if truth is None:
            self._host_if(node)
        elif truth:
            self._run_host(node)
        elif node.orelse is not None:
            self._host_branch(node.orelse)

    def _run_host(self, node: Any) -> None:
        try:
            for statement in body_of(node):
                self.host_statement(statement)
        except HostReturn:
            if not self.conditional:
                raise

    def _host_for(self, node: cst.For) -> None:
        call = node.iter
        if isinstance(call, cst.Call):
            func = self.eval(call.func, self.env)
            if isinstance(func, Known) and func.name in PHASE_LOOPS:
                self._phase(node, call, func.name)
                return
        items = self.iterate(self.eval(node.iter, self.env))
        if items is not None and len(items) <= 64:
            for item in items:
                self.host_bind(node.target, item)
                for statement in body_of(node):
                    self.host_statement(statement)
            return
        for name in assigned_names([node]):
            self.env.names[name] = Opaque(f"'{name}', assigned in a host loop")

    # -- recording replacements --------------------------------------------------------------

    def call_known(
        self, func: Any, args: list[Any], kwargs: dict[str, Any], node: cst.CSTNode
    ) -> Any:
        value = super().call_known(func, args, kwargs, node)
        if not self.on_device and isinstance(func, Known) and func.name.startswith("helion."):
            self._replace_helion(func.name, value, node)
        if isinstance(func, Method) and not self.on_device and func.name == "size" and args:
            return value
        return value

    def _replace_helion(self, name: str, value: Any, node: cst.CSTNode) -> None:
        if not isinstance(node, cst.Call):
            return
        short = name.removeprefix("helion.language.")
        arguments = [self.text.code(a.value) for a in node.args]
        if short in ("specialize", "constexpr"):
            self.text.replace(node, arguments[0])
        elif short == "register_block_size":
            self.text.replace(node, f"__kt_block_{value}__")
        elif short == "register_tunable":
            self.text.replace(node, repr(value))
        elif short in ("helion.cdiv", "cdiv"):
            self.text.replace(node, f"-(-({arguments[0]}) // ({arguments[1]}))")
        elif short == "helion.next_power_of_2":
            self.text.replace(node, f"(1 << (({arguments[0]}) - 1).bit_length())")
        elif short == "helion.runtime.get_num_sm":
            self.text.replace(node, f"__kt_num_sm__({arguments[0]})")

    # -- phases ----------------------------------------------------------------------------

    def _phase(self, node: cst.For, call: cst.Call, name: str) -> None:
        if node.orelse is not None:
            self.construct(node.orelse, "'else' of a tile loop", "", "put it after the loop")
        args, named = self.loop_arguments(call, self.env)
        self.on_device = True
        self.b.ops, self.b.tiles, self.stored = [], [], set()
        self.b.producer.clear()
        device_env = Env(outer=self.env)
        try:
            ranges, is_list = self.tile_ranges(args, named, name)
            self.check_range(ranges)
            axes = [self._grid_axis(node, name, i, r, len(ranges)) for i, r in enumerate(ranges)]
            self.blocks.loop(node)
            items = [item for _, item in axes]
            self.bind(node.target, tuple(items) if is_list else items[0], device_env)
            self.run(body_of(node), device_env)
        finally:
            self.on_device = False
            self.device_names |= set(device_env.names)
        body = ir.Block((), self.b.ops)
        loop = self.blocks.loop(node)
        self.text.replace(node, f"{LAUNCH_MARK}({len(self.phases)})")
        self.phases.append(
            ir.Phase(tuple(axis for axis, _ in axes), body, loop, self.source.span(node))
        )
        self.scalars.update(self.b.numbers)
        self._record_names()

    def _grid_axis(
        self, node: cst.For, name: str, position: int, bounds: tuple[Any, Any, Any], count: int
    ) -> tuple[ir.GridAxis, Any]:
        begin, end, extra = bounds
        for value in (begin, end):
            if not isinstance(value, (int, Size)) or isinstance(value, bool):
                self.fail(
                    "KT0306",
                    f"{describe(value)} as the extent of the grid",
                    why="a grid's size must be known when the kernel is launched",
                    remedy="use a size of a tensor or an integer argument",
                )
        low, high = Size.of(begin), Size.of(end)
        hint = self.axis_hint(node.target, position, count)
        if name.endswith("grid"):
            if extra is not None and not isinstance(extra, int):
                self.fail("KT0306", f"{describe(extra)} as the step of the grid")
            var = self.b.new(self.b.index_dtype, name=hint)
            return ir.GridAxis(var, low, high, None, extra or 1), Scalar(var)
        block = self.block_for(node, position, count, extra, high - low)
        var = ir.Value(ir.TileVar(block), hint)
        tile = Tile(var, block, begin, end)
        self.b.tiles.append(tile)
        return ir.GridAxis(var, low, high, block), tile

    def _register(self, tensor: HostTensor) -> ir.Tensor:
        known = self.tensors.get(tensor)
        if known is not None:
            return known
        host = self._spelling(tensor)
        if host is None:
            self.fail(
                "KT0305",
                "this tensor is not bound to a variable where the kernel is launched",
                remedy="assign it to a variable of the host program",
            )
        assert host is not None
        plain = host.removesuffix(tensor.view)
        name = plain if plain.isidentifier() else "".join(c if c.isalnum() else "_" for c in plain)
        taken = {t.name for t in self.tensors.values()}
        base, number = name, 2
        while name in taken:
            name, number = f"{base}_{number}", number + 1
        strides = tuple(
            Size.of(Sym(f"{name}_stride_{i}", "stride")) if s is None else s
            for i, s in enumerate(tensor.strides)
        )
        storage = next(
            (t.storage for known, t in self.tensors.items() if known.memory is tensor.memory), name
        )
        made = ir.Tensor(name, tensor.dtype, tensor.dims, strides, host, tensor.param, storage)
        self.tensors[tensor] = made
        if (origin := tensor.param or tensor.origin) is not None and origin in self.facts.assumed:
            self.indexer.origins[made] = origin
        return made

    def _spelling(self, tensor: HostTensor) -> str | None:
        """How the host program names a tensor at the launch."""
        if tensor.base is not None:
            inner = self._spelling(tensor.base)
            return None if inner is None else inner + tensor.view
        env: Env | None = self.env
        while env is not None and env is not self.site.env:
            for name, value in env.names.items():
                if value is tensor:
                    return name
                if isinstance(value, (tuple, list)) and not isinstance(value, HostShape):
                    for i, item in enumerate(value):
                        if item is tensor:
                            return f"{name}[{i}]"
            env = env.outer
        return None

    def _record_names(self) -> None:
        """Spellings of sizes that hold at this launch, source variables first."""
        for name, value in self.env.names.items():
            if isinstance(value, Size) and name.strip("_"):
                self.size_names.setdefault((value, name))
        registered = {id(t) for t in self.tensors}
        visible = [
            (n, v) for n, v in self.env.names.items() if isinstance(v, HostTensor) and v.shape
        ]
        for tensor, made in self.tensors.items():
            self._record_tensor(tensor, made.host, made)
        for name, value in visible:
            if id(value) not in registered:
                self._record_tensor(value, name, None)

    def _record_tensor(self, tensor: HostTensor, host: str, made: ir.Tensor | None) -> None:
        for i, dim in enumerate(tensor.dims):
            if dim.as_int() is None and tensor.base is None:
                self.size_names.setdefault((dim, f"{host}.size({i})"))
        if made is None:
            return
        for i, stride in enumerate(made.strides):
            sym = stride.as_sym()
            if sym is not None and sym.kind == "stride":
                self.size_names.setdefault((stride, f"{host}.stride({i})"))


_MISSING = object()
