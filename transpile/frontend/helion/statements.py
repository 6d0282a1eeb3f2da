"""Device statements: assignments, loops with carried values, branches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import libcst as cst

from transpile.frontend.builder import describe
from transpile.frontend.evaluator import simplified
from transpile.frontend.helion.lowering import Lowering
from transpile.frontend.values import (
    Builtin,
    Env,
    Function,
    Gone,
    HostNumber,
    HostTensor,
    Known,
    Opaque,
    Scalar,
    Tile,
)
from transpile.ir import dtypes, ir
from transpile.ir.diagnostics import error
from transpile.ir.dtypes import DType
from transpile.ir.sizes import Size

Statement = cst.BaseStatement | cst.BaseSmallStatement
MAX_UNROLL = 1024
MAX_ROUNDS = 5


class ReturnSignal(Exception):
    """A ``return`` in an inlined function."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value


def assigned_names(statements: Iterable[cst.CSTNode]) -> list[str]:
    """Names a block assigns, in order, nested blocks included, nested functions not."""
    found: dict[str, None] = {}

    def target(node: cst.CSTNode) -> None:
        if isinstance(node, cst.Name):
            found.setdefault(node.value)
        elif isinstance(node, (cst.Tuple, cst.List)):
            for element in node.elements:
                target(element.value)

    def visit(node: cst.CSTNode) -> None:
        if isinstance(node, (cst.FunctionDef, cst.Lambda, cst.ClassDef)):
            if isinstance(node, cst.FunctionDef):
                target(node.name)
            return
        if isinstance(node, cst.Assign):
            for one in node.targets:
                target(one.target)
        elif isinstance(node, (cst.AugAssign, cst.AnnAssign, cst.NamedExpr, cst.For)):
            target(node.target)
        for child in node.children:
            visit(child)

    for statement in statements:
        visit(statement)
    return list(found)


def body_of(node: Any) -> Sequence[cst.CSTNode]:
    """The statements of a suite."""
    body = node.body if hasattr(node, "body") else node
    if isinstance(body, (cst.IndentedBlock, cst.SimpleStatementSuite)):
        body = body.body
    return list(body)


class DeviceStatements(Lowering):
    """Executes device statements against an environment, emitting IR."""

    def run(self, statements: Iterable[cst.CSTNode], env: Env) -> None:
        for statement in statements:
            self.statement(statement, env)

    def statement(self, node: cst.CSTNode, env: Env) -> None:
        saved = self.b.span
        self.b.span = self.source.span(node) or saved
        try:
            self._statement(node, env)
        finally:
            self.b.span = saved

    def _statement(self, node: cst.CSTNode, env: Env) -> None:
        if isinstance(node, cst.SimpleStatementLine):
            self.run(node.body, env)
        elif isinstance(node, cst.Assign):
            self._assign(node, env)
        elif isinstance(node, cst.AnnAssign):
            if node.value is not None:
                self._bind_target(node.target, self._value_for(node.target, node.value, env), env)
        elif isinstance(node, cst.AugAssign):
            self._aug_assign(node, env)
        elif isinstance(node, cst.Expr):
            self.eval(node.value, env)
        elif isinstance(node, cst.For):
            self.for_loop(node, env)
        elif isinstance(node, cst.If):
            self.if_statement(node, env)
        elif isinstance(node, cst.While):
            self.while_loop(node, env)
        elif isinstance(node, cst.FunctionDef):
            env.names[node.name.value] = Function(node, env, node.name.value)
        elif isinstance(node, cst.Return):
            self._return(node, env)
        elif isinstance(node, cst.Assert):
            self._assert(node, env)
        elif isinstance(node, (cst.Pass, cst.Import, cst.ImportFrom, cst.Global)):
            return
        elif isinstance(node, (cst.Break, cst.Continue)):
            word = type(node).__name__.lower()
            self._construct(
                node, f"'{word}'", "a tile loop runs all its tiles", "use an if statement"
            )
        else:
            words = {
                "With": "'with'",
                "Try": "'try'",
                "Raise": "'raise'",
                "Del": "'del'",
                "ClassDef": "a class",
            }
            self._construct(node, words.get(type(node).__name__, type(node).__name__), "", "")

    def _construct(self, node: cst.CSTNode, what: str, why: str, remedy: str) -> None:
        raise error(
            "KT0402",
            f"{what} in device code",
            self.source.span(node) or self.b.span,
            why=why or "the device language has no such statement",
            remedy=remedy,
        )

    # -- assignments -----------------------------------------------------------------------

    def _value_for(self, target: cst.CSTNode, value: cst.BaseExpression, env: Env) -> Any:
        saved = self.target_hint
        if isinstance(target, cst.Name):
            self.target_hint = target.value
        try:
            return self.eval(value, env)
        finally:
            self.target_hint = saved

    def _assign(self, node: cst.Assign, env: Env) -> None:
        if len(node.targets) > 1:
            self._construct(node, "a chained assignment", "", "assign one name at a time")
        target = node.targets[0].target
        self._bind_target(target, self._value_for(target, node.value, env), env)

    def _bind_target(self, target: cst.BaseExpression, value: Any, env: Env) -> None:
        if isinstance(target, cst.Subscript):
            self._store_target(target, value, env)
        elif isinstance(target, (cst.Name, cst.Tuple, cst.List)):
            self.bind(target, value, env)
        else:
            self._construct(target, "this assignment target", "", "assign to a name or a subscript")

    def _store_target(self, target: cst.Subscript, value: Any, env: Env) -> None:
        owner = self.eval(target.value, env)
        if isinstance(owner, list):
            self._list_item(owner, self.index_entries(target, env), value)
            return
        if not isinstance(owner, HostTensor):
            raise error(
                "KT0419",
                f"assignment into {describe(owner)}",
                self.source.span(target),
                why="only tensors of the host program have addressable elements",
                remedy="build the tile with torch.where, or store to a host tensor",
            )
        self.store(owner, self.index_entries(target, env), value)

    def _list_item(self, owner: list[Any], entries: list[Any], value: Any) -> None:
        if len(entries) != 1 or not isinstance(entries[0], int) or entries[0] >= len(owner):
            self.fail("KT0405", "list index is not a compile-time position")
        owner[entries[0]] = value

    def _aug_assign(self, node: cst.AugAssign, env: Env) -> None:
        right = self.eval(node.value, env)
        kind = type(node.operator)
        if isinstance(node.target, cst.Subscript):
            owner = self.eval(node.target.value, env)
            entries = self.index_entries(node.target, env)
            if isinstance(owner, HostTensor):
                old = self.load(owner, entries)
                new = self._combine(kind, old, right)
                self.store(owner, entries, new)
                return
            self._store_target(node.target, None, env)
        assert isinstance(node.target, cst.Name)
        old = self.eval(node.target, env)
        new = self._combine(kind, old, right)
        if isinstance(old, ir.Value) and isinstance(new, ir.Value):
            new = self.b.cast(new, old.dtype)  # in place: the accumulator's dtype stays
        self.bind_name(node.target.value, new, env)

    def _combine(self, kind: type, old: Any, right: Any) -> Any:
        if kind is cst.MatrixMultiplyAssign:
            return self.matmul(old, right)
        if kind is cst.AddAssign and isinstance(old, ir.Value) and isinstance(right, ir.Value):
            fused = self._fuse_product(old, right)
            if fused is not None:
                return fused
        return self.binary(kind, old, right)

    def _fuse_product(self, acc: ir.Value, product: ir.Value) -> ir.Value | None:
        """``acc += hl.dot(a, b)``: accumulate inside the product when the dtypes allow it."""
        op = self.b.producer.get(product)
        if (
            isinstance(op, ir.Dot)
            and op.acc is None
            and acc.tile == product.tile
            and self.b.ops
            and self.b.ops[-1] is op
        ):
            op.acc = acc
            return product
        return None

    def _return(self, node: cst.Return, env: Env) -> None:
        if self.depth == 0:
            self._construct(node, "'return'", "a tile has nowhere to return to", "store the value")
        raise ReturnSignal(None if node.value is None else self.eval(node.value, env))

    def run_body(self, func: Function, env: Env) -> Any:
        assert isinstance(func.node, cst.FunctionDef)
        self.locate_function(func.node)
        try:
            self.run(body_of(func.node), env)
        except ReturnSignal as signal:
            return signal.value
        return None

    def locate_function(self, node: cst.FunctionDef) -> None:
        if self.source.span(node) is None:
            self.source.locate(node)

    def _assert(self, node: cst.Assert, env: Env) -> None:
        if self.truth(self.eval(node.test, env)) is False:
            raise error("KT0420", "this assertion is false at compile time", self.source.span(node))

    # -- loops -----------------------------------------------------------------------------

    def for_loop(self, node: cst.For, env: Env) -> None:
        if node.orelse is not None:
            self._construct(node, "'for ... else'", "", "drop the else clause")
        call = node.iter
        if isinstance(call, cst.Call):
            func = self.eval(call.func, env)
            name = func.name if isinstance(func, (Known, Builtin)) else ""
            if name == "helion.language.tile":
                self._tile_loop(node, *self.loop_arguments(call, env), env)
                return
            if name in ("helion.language.grid", "range"):
                if not self._unrolls(name, call, env):
                    self._range_loop(node, *self.loop_arguments(call, env), env)
                    return
            if name == "helion.language.static_range":
                self._unroll(node, self._static_range(call, env), env)
                return
            if name == "helion.language.jagged_tile":
                self._jagged_loop(node, call, env)
                return
        items = self.iterate(self.eval(node.iter, env))
        if items is None:
            self._construct(
                node,
                "a loop over a run-time sequence",
                "loops run over hl.tile, hl.grid, range or a compile-time sequence",
                "use hl.tile or hl.grid",
            )
        assert items is not None
        self._unroll(node, items, env)

    def loop_arguments(self, call: cst.Call, env: Env) -> tuple[list[Any], dict[str, Any]]:
        positional = [self.eval(a.value, env) for a in call.args if a.keyword is None]
        named = {
            a.keyword.value: self.eval(a.value, env) for a in call.args if a.keyword is not None
        }
        return positional, named

    def _unrolls(self, name: str, call: cst.Call, env: Env) -> bool:
        """``range`` of one or two compile-time iterations is not worth a loop."""
        return False

    def _static_range(self, call: cst.Call, env: Env) -> list[Any]:
        args, named = self.loop_arguments(call, env)
        if "step" in named:
            args = [*([0] if len(args) == 1 else []), *args, named["step"]]
        if not all(isinstance(a, int) for a in args):
            raise error(
                "KT0422",
                "hl.static_range needs compile-time bounds",
                self.source.span(call),
                remedy="hl.specialize the size, and make it static in the signature",
            )
        items = list(range(*args))
        if len(items) > MAX_UNROLL:
            raise error("KT0422", f"unrolling {len(items)} iterations", self.source.span(call))
        return items

    def _unroll(self, node: cst.For, items: Sequence[Any], env: Env) -> None:
        for item in items:
            self.bind(node.target, item, env)
            self.run(body_of(node), env)

    def tile_ranges(
        self, args: list[Any], named: dict[str, Any], what: str
    ) -> tuple[list[tuple[Any, Any, Any]], bool]:
        """(begin, end, block or step) per axis, and whether the loop yields a tuple."""
        extra = named.get("block_size", named.get("step"))
        args = list(args)
        if len(args) == 3:
            extra = args.pop()
        begin, end = (None, args[0]) if len(args) == 1 or args[1] is None else (args[0], args[1])
        is_list = isinstance(end, (list, tuple))
        ends = self._unpack_sizes(end) if is_list else [end]
        begins = list(begin) if isinstance(begin, (list, tuple)) else [begin] * len(ends)
        extras = list(extra) if isinstance(extra, (list, tuple)) else [extra] * len(ends)
        if not len(begins) == len(ends) == len(extras):
            self.fail("KT0423", f"{what} with lists of different lengths")
        for value in (*begins, *ends):
            if isinstance(value, Tile):
                self.fail(
                    "KT0423",
                    "a tile as a loop bound",
                    remedy="use tile.begin and tile.end",
                )
        return [
            (0 if b is None else b, e, x) for b, e, x in zip(begins, ends, extras, strict=True)
        ], is_list

    def _unpack_sizes(self, sizes: Any) -> list[Any]:
        from transpile.frontend.evaluator import HostShape

        return list(sizes.unpacked(None)) if isinstance(sizes, HostShape) else list(sizes)

    def block_for(self, node: cst.For, position: int, count: int, given: Any, extent: Any) -> Any:
        """The block symbol of one axis of a tile loop."""
        if isinstance(given, Tile):
            given = given.size
        if isinstance(given, Size) and (sym := given.as_sym()) is not None and sym.kind == "block":
            block = sym
        else:
            fixed = None
            if given is not None:
                if not isinstance(given, (int, Size)) or isinstance(given, bool):
                    self.fail("KT0424", f"{describe(given)} as block_size", remedy="use an integer")
                fixed = Size.of(given)
                number = fixed.as_int()
                if number is not None and (number < 1 or number & (number - 1)):
                    self.fail(
                        "KT0424",
                        f"block size {number} is not a power of two",
                        why="tiles are powers of two on every target",
                        remedy=f"use {1 << max(0, number - 1).bit_length() if number > 0 else 1}",
                    )
            hint = self.axis_hint(node.target, position, count)
            block = self.blocks.register(node, hint, fixed=fixed, position=position).sym
        if isinstance(extent, Size):
            self.blocks.tiles(block, extent)
        self.b.fixed_blocks = self.blocks.fixed()
        return block

    def axis_hint(self, target: cst.BaseExpression, position: int, count: int) -> str:
        if isinstance(target, (cst.Tuple, cst.List)) and position < len(target.elements):
            element = target.elements[position].value
            if isinstance(element, cst.Name):
                return element.value
        if isinstance(target, cst.Name):
            return target.value if count == 1 else f"{target.value}_{position}"
        return f"tile_{position}"

    def _tile_loop(self, node: cst.For, args: list[Any], named: dict[str, Any], env: Env) -> None:
        ranges, is_list = self.tile_ranges(args, named, "hl.tile")
        self.check_range(ranges)
        self._tile_axis(node, ranges, 0, [], is_list, env)

    def check_range(self, ranges: list[tuple[Any, Any, Any]]) -> None:
        for begin, end, _ in ranges:
            if isinstance(begin, int) and isinstance(end, int) and begin > end:
                self.fail("KT0423", f"the loop runs from {begin} to {end}")

    def _tile_axis(
        self,
        node: cst.For,
        ranges: list[tuple[Any, Any, Any]],
        axis: int,
        tiles: list[Tile],
        is_list: bool,
        env: Env,
        lengths: ir.Value | None = None,
    ) -> None:
        """One axis of a nested tile loop; the innermost runs the body."""
        if axis == len(ranges):
            self.bind(node.target, tuple(tiles) if is_list else tiles[0], env)
            self.run(body_of(node), env)
            return
        begin, end, given = ranges[axis]
        symbolic = isinstance(begin, (int, Size)) and isinstance(end, (int, Size))
        extent = Size.of(end) - Size.of(begin) if symbolic else None
        block = self.block_for(node, axis, len(ranges), given, extent)
        var = ir.Value(ir.TileVar(block), self.axis_hint(node.target, axis, len(ranges)))
        tile = Tile(var, block, begin, end, lengths)
        low, high = self.bound(begin), self.bound(end)

        def body() -> None:
            self.b.tiles.append(tile)
            try:
                self._tile_axis(node, ranges, axis + 1, [*tiles, tile], is_list, env)
            finally:
                self.b.tiles.pop()

        def build(
            inits: tuple[ir.Value, ...], block_: ir.Block, results: tuple[ir.Value, ...]
        ) -> ir.Op:
            return ir.ForTile(
                results=results, begin=low, end=high, block=block, inits=inits, body=block_,
                loop=self.blocks.loop(node),
            )  # fmt: skip

        self.carried_loop(node, env, var, body, build)

    def _jagged_loop(self, node: cst.For, call: cst.Call, env: Env) -> None:
        """A tile loop to the longest row; every access is masked by each row's own length."""
        args, named = self.loop_arguments(call, env)
        lengths = args[0] if args else None
        if not isinstance(lengths, ir.Value) or not lengths.shape or not lengths.dtype.is_int:
            found = describe(lengths)
            if isinstance(lengths, ir.Value):
                self.indexer.require_index(lengths)
            self.fail(
                "KT0421",
                f"hl.jagged_tile over {found}",
                why="it takes the row lengths, an integer tile over enclosing tile axes",
                remedy="load the lengths with the enclosing tile",
            )
        assert isinstance(lengths, ir.Value)
        longest = lengths
        for axis in reversed(range(len(lengths.shape))):
            longest = self.b.reduce("max", longest, axis)
        if longest.name is None:
            longest.name = "longest"
        ranges = [(0, longest, named.get("block_size"))]
        self._tile_axis(node, ranges, 0, [], False, env, lengths)

    def bound(self, value: Any) -> ir.Value:
        """A loop bound as an index scalar."""
        scalar = self.b.scalar(value)
        self.indexer.require_index(scalar)
        if scalar.shape or not scalar.dtype.is_int:
            self.fail(
                "KT0423", f"{describe(value)} as a loop bound", remedy="use an integer scalar"
            )
        return scalar

    def _range_loop(self, node: cst.For, args: list[Any], named: dict[str, Any], env: Env) -> None:
        if len(args) == 3 and not isinstance(args[0], (list, tuple)):
            ranges, is_list = [(args[0], args[1], args[2])], False
        else:
            ranges, is_list = self.tile_ranges(args, named, "hl.grid")
        self._range_axis(node, ranges, 0, [], is_list, env)

    def _range_axis(
        self,
        node: cst.For,
        ranges: list[tuple[Any, Any, Any]],
        axis: int,
        indices: list[Any],
        is_list: bool,
        env: Env,
    ) -> None:
        if axis == len(ranges):
            self.bind(node.target, tuple(indices) if is_list else indices[0], env)
            self.run(body_of(node), env)
            return
        begin, end, step = ranges[axis]
        var = self.b.new(self.b.index_dtype, name=self.axis_hint(node.target, axis, len(ranges)))
        low, high = self.bound(begin), self.bound(end)
        stride = self.bound(1 if step is None else step)

        def body() -> None:
            self._range_axis(node, ranges, axis + 1, [*indices, Scalar(var)], is_list, env)

        def build(
            inits: tuple[ir.Value, ...], block: ir.Block, results: tuple[ir.Value, ...]
        ) -> ir.Op:
            return ir.ForRange(
                results=results, begin=low, end=high, step=stride, inits=inits, body=block,
                loop=self.blocks.loop(node),
            )  # fmt: skip

        self.carried_loop(node, env, var, body, build)

    # -- carried values ----------------------------------------------------------------------

    def carried_loop(
        self, node: cst.For | cst.While, env: Env, var: ir.Value | None, body: Any, build: Any
    ) -> None:
        """Run ``body`` as a loop body whose assigned variables are carried.

        The carried set and types are found by running the body: a variable whose type widens
        (a Python number that becomes a tile, say) makes it run again with the wider type; one that
        comes out unchanged is not carried.
        """
        before = dict(env.names)
        stored = set(self.stored)
        names = [n for n in assigned_names([node.body]) if n in env and is_numeric(env.lookup(n))]
        inits = {n: self.b.scalar(env.lookup(n)) for n in names}
        weak = {n: not isinstance(env.lookup(n), ir.Value) for n in names}
        for _ in range(MAX_ROUNDS):
            env.names.clear()
            env.names.update(before)
            self.stored = set(stored)
            params = {n: ir.Value(inits[n].type, n) for n in inits}
            for n, param in params.items():
                env.names[n] = Scalar(param) if weak[n] else param
            with self.b.region() as ops:
                body()
                outcome = self._yields(params, weak, env)
            if outcome.settled(inits):
                break
            for n in outcome.constant:
                del inits[n], weak[n]
            for n, tile in outcome.widened.items():
                inits[n] = self._widen(inits[n], tile)
                weak[n] = False
        else:
            self.fail("KT0425", "the type of a loop-carried variable does not settle")
        self._finish_loop(env, before, var, params, inits, weak, ops, outcome, build)

    def _yields(self, params: dict[str, ir.Value], weak: dict[str, bool], env: Env) -> Outcome:
        out = Outcome()
        for name, param in params.items():
            after = env.lookup(name)
            if not is_numeric(after):
                out.constant.append(name)
                continue
            value = self.b.scalar(after)
            if value is param:
                out.constant.append(name)
                continue
            joined = self._join(param.tile, value.tile, weak[name])
            if joined != param.tile or (weak[name] and isinstance(after, ir.Value)):
                out.widened[name] = joined
            out.values[name] = self._convert(value, param.tile) if joined == param.tile else value
        return out

    def _join(self, a: ir.TileType, b: ir.TileType, weak: bool) -> ir.TileType:
        if a.dtype == b.dtype:
            dtype: DType | None = a.dtype
        elif weak and b.dtype.category >= a.dtype.category:
            dtype = b.dtype
        else:
            dtype = dtypes.promote(a.dtype, b.dtype)
        if dtype is None:
            self.fail("KT0425", f"a loop-carried variable is {a.dtype} before and {b.dtype} after")
        assert dtype is not None
        return ir.TileType(dtype, self.b.broadcast_shape([a.shape, b.shape]))

    def _convert(self, value: ir.Value, tile: ir.TileType) -> ir.Value:
        return self.b.broadcast(self.b.cast(value, tile.dtype), tile.shape)

    def _widen(self, init: ir.Value, tile: ir.TileType) -> ir.Value:
        name = init.name
        wide = self.b.cast(init, tile.dtype)
        if wide.shape != tile.shape:
            wide = (
                self.b.full(tile.shape, wide, tile.dtype)
                if not wide.shape
                else self.b.broadcast(wide, tile.shape)
            )
        if wide.name is None:
            wide.name = name
        return wide

    def _finish_loop(
        self,
        env: Env,
        before: dict[str, Any],
        var: ir.Value | None,
        params: dict[str, ir.Value],
        inits: dict[str, ir.Value],
        weak: dict[str, bool],
        ops: list[ir.Op],
        outcome: Outcome,
        build: Any,
    ) -> None:
        carried = list(params)
        lead = () if var is None else (var,)
        block = ir.Block((*lead, *params.values()), ops, tuple(outcome.values[n] for n in carried))
        self._barrier_between_iterations(block)
        for n in carried:
            if inits[n].name is None:
                inits[n].name = n
        results = tuple(ir.Value(params[n].type, n) for n in carried)
        self.b.emit(build(tuple(inits[n] for n in carried), block, results))
        after = {
            n: v for n, v in env.names.items() if n not in before or n in outcome_names(env, before)
        }
        env.names.clear()
        env.names.update(before)
        for n in after:
            if n not in params:
                env.names[n] = Gone("it was assigned inside a loop that has ended")
        for n, result in zip(carried, results, strict=True):
            env.names[n] = Scalar(result) if weak[n] else result

    def _barrier_between_iterations(self, block: ir.Block) -> None:
        """A tensor both read and written by the body: the next iteration may read what this one
        wrote, so the threads of the program must meet in between."""
        loads = {op.tensor for op in block.ops if isinstance(op, ir.Load)}
        stores = {op.tensor for op in block.ops if isinstance(op, ir.Store)}
        if loads & stores and not any(isinstance(op, ir.Barrier) for op in block.ops):
            block.ops.append(ir.Barrier(span=self.b.span))

    # -- branches --------------------------------------------------------------------------

    def if_statement(self, node: cst.If, env: Env) -> None:
        test = self.eval(node.test, env)
        truth = self.truth(test)
        if truth is not None:
            if truth:
                self.run(body_of(node), env)
            elif node.orelse is not None:
                self._orelse(node.orelse, env)
            return
        cond = self.condition(test)
        before = dict(env.names)
        with self.b.region() as then_ops:
            self.run(body_of(node), env)
            then_env = dict(env.names)
        env.names.clear()
        env.names.update(before)
        with self.b.region() as else_ops:
            if node.orelse is not None:
                self._orelse(node.orelse, env)
            else_env = dict(env.names)
        self._merge(env, before, cond, (then_ops, then_env), (else_ops, else_env))

    def _orelse(self, node: cst.If | cst.Else, env: Env) -> None:
        if isinstance(node, cst.If):
            self.statement(node, env)
        else:
            self.run(body_of(node), env)

    def _merge(
        self,
        env: Env,
        before: dict[str, Any],
        cond: ir.Value,
        then: tuple[list[ir.Op], dict[str, Any]],
        orelse: tuple[list[ir.Op], dict[str, Any]],
    ) -> None:
        """Phi values for the variables that the branches leave different."""
        (then_ops, then_env), (else_ops, else_env) = then, orelse
        merged: list[tuple[str, ir.Value, ir.Value, bool]] = []
        env.names.clear()
        env.names.update(before)
        for name in dict.fromkeys([*then_env, *else_env]):
            a = then_env.get(name, _ABSENT)
            b = else_env.get(name, _ABSENT)
            if a is b:
                env.names[name] = a
            elif a is not _ABSENT and b is not _ABSENT and is_numeric(a) and is_numeric(b):
                if same_number(a, b):
                    env.names[name] = a
                    continue
                pair = self._phi(a, b, then_ops, else_ops)
                weak = not isinstance(a, ir.Value) and not isinstance(b, ir.Value)
                merged.append((name, *pair, weak))
            else:
                env.names[name] = Gone("only one branch of a run-time if gives it a value")
        results = tuple(ir.Value(a.type, name) for name, a, _, _ in merged)
        self.b.emit(
            ir.If(
                results=results,
                cond=cond,
                then=ir.Block((), then_ops, tuple(a for _, a, _, _ in merged)),
                orelse=ir.Block((), else_ops, tuple(b for _, _, b, _ in merged)),
            )
        )
        for (name, _, _, weak), result in zip(merged, results, strict=True):
            env.names[name] = Scalar(result) if weak else result

    def _phi(
        self, a: Any, b: Any, then_ops: list[ir.Op], else_ops: list[ir.Op]
    ) -> tuple[ir.Value, ir.Value]:
        saved = self.b.ops
        try:
            self.b.ops = then_ops
            left = self.b.scalar(a)
            self.b.ops = else_ops
            right = self.b.scalar(b)
            weak = not isinstance(a, ir.Value)
            tile = self._join(left.tile, right.tile, weak)
            if not isinstance(b, ir.Value) and isinstance(a, ir.Value):
                tile = self._join(right.tile, left.tile, True)
            right = self._convert(right, tile)
            self.b.ops = then_ops
            left = self._convert(left, tile)
            return left, right
        finally:
            self.b.ops = saved

    # -- while -----------------------------------------------------------------------------

    def while_loop(self, node: cst.While, env: Env) -> None:
        if node.orelse is not None:
            self._construct(node, "'while ... else'", "", "drop the else clause")

        cond: list[ir.Block] = []

        def body() -> None:
            cond.clear()
            params = tuple(
                v.value if isinstance(v, Scalar) else v
                for n, v in env.names.items()
                if isinstance(v, (ir.Value, Scalar)) and n in names
            )
            with self.b.region() as ops:
                test = self.condition(self.eval(node.test, env))
            cond.append(ir.Block(params, ops, (test,)))
            self.run(body_of(node), env)

        names = set(assigned_names([node.body]))

        def build(
            inits: tuple[ir.Value, ...], block: ir.Block, results: tuple[ir.Value, ...]
        ) -> ir.Op:
            params = tuple(ir.Value(p.type, p.name) for p in block.params)
            return ir.While(
                results=results, inits=inits,
                cond=clone_region(ir.Block(block.params, cond[0].ops, cond[0].yields), params),
                body=block,
            )  # fmt: skip

        self.carried_loop(node, env, None, body, build)


class Outcome:
    """What one run of a loop body did to the candidates for carrying."""

    def __init__(self) -> None:
        self.values: dict[str, ir.Value] = {}
        self.constant: list[str] = []
        self.widened: dict[str, ir.TileType] = {}

    def settled(self, inits: dict[str, ir.Value]) -> bool:
        return not self.constant and not self.widened


_ABSENT = object()


def outcome_names(env: Env, before: dict[str, Any]) -> set[str]:
    """Names whose value changed."""
    return {n for n, v in env.names.items() if n not in before or before[n] is not v}


def is_numeric(x: Any) -> bool:
    """True for what can be carried: tiles and numbers."""
    return isinstance(x, (ir.Value, Scalar, bool, int, float, Size, HostNumber)) and not (
        isinstance(x, HostNumber) and x.host is None
    )


def same_number(a: Any, b: Any) -> bool:
    return not isinstance(a, (ir.Value, Scalar, HostNumber)) and type(a) is type(b) and a == b


def clone_region(block: ir.Block, params: tuple[ir.Value, ...]) -> ir.Block:
    """A copy of a straight-line region with other parameters."""
    from dataclasses import fields

    mapping: dict[ir.Value, ir.Value] = dict(zip(block.params, params, strict=True))

    def swap(x: Any) -> Any:
        if isinstance(x, ir.Value):
            return mapping.get(x, x)
        if isinstance(x, tuple):
            return tuple(swap(i) for i in x)
        return x

    ops: list[ir.Op] = []
    for op in block.ops:
        values = {f.name: swap(getattr(op, f.name)) for f in fields(op) if f.name != "results"}
        results = tuple(ir.Value(r.type, r.name) for r in op.results)
        mapping.update(zip(op.results, results, strict=True))
        ops.append(type(op)(results=results, **values))
    return ir.Block(params, ops, tuple(mapping.get(y, y) for y in block.yields))


__all__ = ["DeviceStatements", "Opaque", "assigned_names", "body_of", "simplified"]
