"""One kernel for one signature: the host program, its phases, the finished ir.Kernel."""

from __future__ import annotations

from typing import Any

import libcst as cst

from transpile.frontend.builder import Builder, describe
from transpile.frontend.facts import Facts
from transpile.frontend.helion import prelude
from transpile.frontend.helion.hosttext import HostText
from transpile.frontend.helion.kernels import KernelSite
from transpile.frontend.helion.scan import assigned_names, body_of
from transpile.frontend.helion.statements import DeviceStatements
from transpile.frontend.source import ParsedSource
from transpile.frontend.symbolic import HostShape
from transpile.frontend.syntax import children, names_read
from transpile.frontend.values import (
    Env,
    Function,
    HostNumber,
    HostTensor,
    Known,
    Method,
    NeedFact,
    Opaque,
    Scalar,
    Tile,
)
from transpile.ir import ir
from transpile.ir.diagnostics import error
from transpile.ir.dtypes import I32, I64, DType
from transpile.ir.sizes import Size, Sym

PHASE_LOOPS = ("helion.language.tile", "helion.language.grid")
LAUNCH_MARK = "__kt_launch__"


class HostReturn(Exception):
    """The host program returns here, whatever the run time brings."""


class Program(DeviceStatements):
    """Evaluates a kernel function under given facts."""

    def __init__(
        self, source: ParsedSource, site: KernelSite, config: dict[str, Any], facts: Facts
    ) -> None:
        wide = config.get("index_dtype") in (I64, "int64", "i64")
        super().__init__(source, Builder(I64 if wide else I32), config)
        self.site = site
        self.facts = facts
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
        source.locate(site.statement)
        source.locate(site.node)

    # -- the host program ------------------------------------------------------------------

    def execute(self) -> None:
        """Evaluate the whole host program; fills phases, tensors and texts."""
        try:
            for statement in self._statements():
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

    def _statements(self) -> list[cst.CSTNode]:
        body = list(body_of(self.site.node))
        if body and _is_docstring(body[0]):
            body = body[1:]
        return body

    def host_statement(self, node: cst.CSTNode) -> None:
        saved = self.b.span
        self.b.span = self.source.span(node) or saved
        try:
            self._host_statement(node)
        finally:
            self.b.span = saved

    def _host_statement(self, node: cst.CSTNode) -> None:
        env = self.env
        if isinstance(node, cst.SimpleStatementLine):
            for small in node.body:
                self.host_statement(small)
            self._drop_empty(node)
        elif isinstance(node, cst.Assign):
            value = self._value_for(node.targets[0].target, node.value, env)
            for target in node.targets:
                self.host_bind(target.target, value)
        elif isinstance(node, cst.AnnAssign) and node.value is not None:
            self.host_bind(node.target, self._value_for(node.target, node.value, env))
        elif isinstance(node, cst.AugAssign) and isinstance(node.target, cst.Name):
            old = self.eval(node.target, env)
            self.host_bind(
                node.target, self.binary(type(node.operator), old, self.eval(node.value, env))
            )
        elif isinstance(node, cst.Expr):
            self.eval(node.value, env)
        elif isinstance(node, cst.Assert):
            self._host_assert(node)
        elif isinstance(node, cst.Return):
            self._host_return(node)
        elif isinstance(node, cst.If):
            self._host_if(node)
        elif isinstance(node, cst.For):
            self._host_for(node)
        elif isinstance(node, cst.With):
            for statement in body_of(node):
                self.host_statement(statement)
        elif isinstance(node, cst.FunctionDef):
            env.names[node.name.value] = Function(node, env, node.name.value)
        elif isinstance(node, (cst.While, cst.Try)):
            for name in assigned_names([node]):
                env.names[name] = Opaque(f"'{name}', assigned in a host loop")

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

    def learn(self, test: cst.BaseExpression) -> None:
        """Facts an assertion states: equal dimensions, divisibility."""
        if isinstance(test, cst.BooleanOperation) and isinstance(test.operator, cst.And):
            self.learn(test.left)
            self.learn(test.right)
            return
        if not isinstance(test, cst.Comparison) or self.conditional:
            return
        left = test.left
        for part in test.comparisons:
            if isinstance(part.operator, (cst.Equal, cst.In)):
                self._learn_dtype(left, self.eval(part.comparator, self.env))
            if isinstance(part.operator, cst.Equal):
                self._learn_modulo(left, part.comparator)
                self._learn_equal(self.eval(left, self.env), self.eval(part.comparator, self.env))
            left = part.comparator

    def _learn_equal(self, a: Any, b: Any) -> None:
        if isinstance(a, HostShape) and isinstance(b, HostShape):
            for one, other in ((a, b), (b, a)):
                if one.tensor.shape is None and other.tensor.shape is not None:
                    raise NeedFact(one.tensor.param or "?", rank=len(other))
        self._learn_rank(a, b)
        self._learn_rank(b, a)
        if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)) and len(a) == len(b):
            for x, y in zip(a, b, strict=True):
                self._learn_equal(x, y)
        elif isinstance(a, (int, Size)) and isinstance(b, (int, Size)) and a != b:
            self.facts.unify(Size.of(a), Size.of(b))

    def _learn_rank(self, shape: Any, entries: Any) -> None:
        """``assert x.shape == (a, b)`` tells the rank of ``x``."""
        if isinstance(shape, HostShape) and type(entries) in (tuple, list):
            if shape.tensor.shape is None or shape.tensor.guessed:
                shape.unpacked(len(entries))

    def _learn_dtype(self, left: cst.BaseExpression, wanted: Any) -> None:
        """``assert x.dtype == torch.float16``, or ``in`` a list: the dtype of an unstated ``x``."""
        if not (isinstance(left, cst.Attribute) and left.attr.value == "dtype"):
            return
        owner = self.eval(left.value, self.env)
        choices = wanted if isinstance(wanted, (tuple, list)) else [wanted]
        if not isinstance(owner, HostTensor) or owner.param not in self.facts.assumed:
            return
        known = [c for c in choices if isinstance(c, DType)]
        if known and owner.dtype not in known and owner.param not in self.facts.dtypes:
            raise NeedFact(owner.param, dtype=known[0])

    def _learn_modulo(self, left: cst.BaseExpression, right: cst.BaseExpression) -> None:
        """``assert n % 16 == 0``."""
        if not (isinstance(left, cst.BinaryOperation) and isinstance(left.operator, cst.Modulo)):
            return
        value = self.eval(left.left, self.env)
        divisor = self.eval(left.right, self.env)
        if self.eval(right, self.env) == 0 and isinstance(value, Size) and isinstance(divisor, int):
            sym = value.as_sym()
            if sym is not None and divisor > 0:
                self.facts.multiple_of[sym] = divisor

    def _host_return(self, node: cst.Return) -> None:
        if node.value is not None:
            self.eval(node.value, self.env)
        if not self.conditional:
            raise HostReturn

    def _host_if(self, node: cst.If) -> None:
        truth = self.truth(self.eval(node.test, self.env))
        if truth is not None:
            branch: Any = node if truth else node.orelse
            if branch is not None:
                self._host_branch(branch)
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
        if isinstance(node, cst.If) and not taken and self.conditional and node.orelse is None:
            pass
        if (
            isinstance(node, cst.If)
            and not taken
            and self.truth(self.eval(node.test, self.env)) is None
        ):
            self._host_if(node)
            return
        if isinstance(node, cst.If) and not taken:
            if self.truth(self.eval(node.test, self.env)):
                self._run_host(node)
            elif node.orelse is not None:
                self._host_branch(node.orelse)
            return
        self._run_host(node)

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
            device = arguments[0]
            self.text.replace(
                node, f"torch.cuda.get_device_properties({device}).multi_processor_count"
            )

    # -- phases ----------------------------------------------------------------------------

    def _phase(self, node: cst.For, call: cst.Call, name: str) -> None:
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
        name = host if host.isidentifier() else "".join(c if c.isalnum() else "_" for c in host)
        taken = {t.name for t in self.tensors.values()}
        base, number = name, 2
        while name in taken:
            name, number = f"{base}_{number}", number + 1
        strides = tuple(
            Size.of(Sym(f"{name}_stride_{i}", "stride")) if s is None else s
            for i, s in enumerate(tensor.strides)
        )
        made = ir.Tensor(name, tensor.dtype, tensor.dims, strides, host, tensor.param)
        self.tensors[tensor] = made
        if (origin := tensor.param or tensor.origin) is not None and origin in self.facts.assumed:
            self.indexer.origins[made] = origin
        return made

    def _spelling(self, tensor: HostTensor) -> str | None:
        """How the host program names a tensor at the launch."""
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
            if dim.as_int() is None:
                self.size_names.setdefault((dim, f"{host}.size({i})"))
        if made is None:
            return
        for i, stride in enumerate(made.strides):
            sym = stride.as_sym()
            if sym is not None and sym.kind == "stride":
                self.size_names.setdefault((stride, f"{host}.stride({i})"))

    # -- assembling ------------------------------------------------------------------------

    def kernel(self, signature: str, params: tuple[ir.Param, ...]) -> ir.Kernel:
        """The finished kernel."""
        node = self.site.node
        host = self._host_items()
        text = prelude.collect(self.source, self.site, host, self._kept_nodes())
        returns = None
        if node.returns is not None:
            returns = self.source.code(node.returns.annotation)
        return ir.Kernel(
            name=self.site.name,
            params=params,
            signature=signature,
            returns=returns,
            docstring=_docstring(node),
            host=host,
            phases=tuple(self.phases),
            tensors=tuple(self.tensors.values()),
            scalars=tuple(self.scalars.values()),
            blocks=self.blocks.all,
            size_names=tuple(self.size_names),
            multiple_of=dict(self.facts.multiple_of),
            config={k: v for k, v in self.config.items() if k != "index_dtype"},
            index_dtype=I64 if self.b.index_dtype == I64 else None,
            prelude=text,
            span=self.source.span(node.name),
            comments=dict(self.comments),
        )

    def _kept_nodes(self) -> list[cst.CSTNode]:
        return self._statements()

    def _host_items(self) -> tuple[ir.HostCode | ir.Launch, ...]:
        items: list[ir.HostCode | ir.Launch] = []
        span = self.source.span(self.site.node.body)
        last = span.line - 1 if span is not None else 0
        for statement in self._statements():
            where = self.source.span(statement)
            assert where is not None
            text = self.text.text(statement, last)
            last = where.end_line
            if text:
                items.extend(self._split(text, statement, where))
        return tuple(items)

    def _split(
        self, text: str, statement: cst.CSTNode, where: ir.Span
    ) -> list[ir.HostCode | ir.Launch]:
        """Launch marks become Launch items; the text around them stays."""
        items: list[ir.HostCode | ir.Launch] = []
        if LAUNCH_MARK not in text:
            defines = tuple(assigned_names([statement]))
            pure = _is_pure(statement)
            return [ir.HostCode(text, where, defines, tuple(sorted(names_read([statement]))), pure)]
        lines: list[str] = []
        for line in text.splitlines():
            stripped = line.strip()
            if stripped.startswith(LAUNCH_MARK):
                if any(not one.strip().startswith("#") and one.strip() for one in lines):
                    items.append(ir.HostCode("\n".join(lines), where))
                lines = []
                phase = int(stripped[len(LAUNCH_MARK) + 1 : stripped.index(")")])
                items.append(ir.Launch(phase, (len(line) - len(line.lstrip())) // 4))
            else:
                lines.append(line)
        if lines:
            items.append(ir.HostCode("\n".join(lines), where))
        return items

    def statement(self, node: cst.CSTNode, env: Env) -> None:
        if self.on_device:
            self._note_comment(node)
        super().statement(node, env)

    def _note_comment(self, node: cst.CSTNode) -> None:
        lines = getattr(node, "leading_lines", None)
        span = self.source.span(node)
        if not lines or span is None:
            return
        texts = [line.comment.value for line in lines if line.comment is not None]
        useful = [
            t for t in texts if not t.startswith(("# type:", "# pyrefly", "# noqa", "# pyright"))
        ]
        if useful:
            self.comments[span.line] = "\n".join(useful)


_MISSING = object()


def _is_docstring(node: cst.CSTNode) -> bool:
    return (
        isinstance(node, cst.SimpleStatementLine)
        and isinstance(node.body[0], cst.Expr)
        and isinstance(node.body[0].value, (cst.SimpleString, cst.ConcatenatedString))
    )


def _docstring(node: cst.FunctionDef) -> str | None:
    return node.get_docstring(clean=True)


def _is_pure(node: cst.CSTNode) -> bool:
    """Assignments of sizes and arithmetic: droppable when nothing reads the name."""
    if not isinstance(node, cst.SimpleStatementLine) or not all(
        isinstance(s, cst.Assign) for s in node.body
    ):
        return False
    pure_calls = {"size", "stride", "dim", "numel", "sqrt", "float", "int", "len", "min", "max", "specialize",
                  "register_block_size", "register_tunable", "cdiv", "next_power_of_2"}  # fmt: skip

    def visit(child: cst.CSTNode) -> bool:
        if isinstance(child, cst.Call):
            func = child.func
            name = (
                func.attr.value if isinstance(func, cst.Attribute) else getattr(func, "value", "")
            )
            if name not in pure_calls:
                return False
        if isinstance(child, (cst.Subscript, cst.Await, cst.Yield)) and isinstance(
            child, cst.Await
        ):
            return False
        return all(visit(c) for c in children(child))

    return all(visit(s.value) for s in node.body if isinstance(s, cst.Assign)) and all(
        isinstance(t.target, (cst.Name, cst.Tuple))
        for s in node.body
        if isinstance(s, cst.Assign)
        for t in s.targets
    )


__all__ = ["HostReturn", "Program"]
