"""Device loops: tile, grid, jagged, static and sequence loops, and while."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import libcst as cst

from transpile.frontend.builder import describe
from transpile.frontend.helion.carried import CarriedValues, clone_region
from transpile.frontend.helion.scan import assigned_names, body_of
from transpile.frontend.values import (
    Builtin,
    Env,
    Known,
    Scalar,
    Tile,
)
from transpile.ir import ir
from transpile.ir.diagnostics import error
from transpile.ir.sizes import Size

MAX_UNROLL = 1024
MAX_ROUNDS = 5


class Loops(CarriedValues):
    """Runs loop statements; the statements of a body come from the subclass."""

    def run(self, statements: Iterable[cst.CSTNode], env: Env) -> None:
        raise NotImplementedError

    def construct(self, node: cst.CSTNode, what: str, why: str, remedy: str) -> NoReturn:
        """A diagnostic for a construct that device code lacks."""
        raise error(
            "KT0402",
            f"{what} in device code",
            self.source.span(node) or self.b.span,
            why=why or "the device language has no such statement",
            remedy=remedy,
        )

    # -- loops -----------------------------------------------------------------------------

    def for_loop(self, node: cst.For, env: Env) -> None:
        if node.orelse is not None:
            self.construct(node, "'for ... else'", "", "drop the else clause")
        call = node.iter
        if isinstance(call, cst.Call):
            func = self.eval(call.func, env)
            name = func.name if isinstance(func, (Known, Builtin)) else ""
            if name == "helion.language.tile":
                self._tile_loop(node, *self.loop_arguments(call, env), env)
                return
            if name in ("helion.language.grid", "range"):
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
            self.construct(
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
        from transpile.frontend.symbolic import HostShape

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

    # -- while -----------------------------------------------------------------------------

    def while_loop(self, node: cst.While, env: Env) -> None:
        if node.orelse is not None:
            self.construct(node, "'while ... else'", "", "drop the else clause")

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
