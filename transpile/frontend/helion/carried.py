"""Values carried through loops and merged after branches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import libcst as cst

from transpile.frontend.helion.lowering import Lowering
from transpile.frontend.helion.scan import assigned_names
from transpile.frontend.values import (
    Env,
    Gone,
    HostNumber,
    Scalar,
)
from transpile.ir import dtypes, ir
from transpile.ir.diagnostics import KtError, error
from transpile.ir.dtypes import DType
from transpile.ir.sizes import Size
from transpile.ir.walk import operands, regions, walk

MAX_UNROLL = 1024
MAX_ROUNDS = 5


class Outcome:
    """What one run of a loop body did to the candidates for carrying."""

    def __init__(self) -> None:
        self.values: dict[str, ir.Value] = {}
        self.constant: list[str] = []
        self.widened: dict[str, ir.TileType] = {}

    @property
    def settled(self) -> bool:
        """True when the candidates and their types were right."""
        return not self.constant and not self.widened


_ABSENT = object()


def reads(ops: list[ir.Op], value: ir.Value) -> bool:
    """True if any operation, nested ones included, uses the value."""
    block = ir.Block((), ops)
    return any(
        any(v is value for v in operands(op))
        or any(y is value for region in regions(op) for y in region.yields)
        for op in walk(block)
    )


def outcome_names(env: Env, before: dict[str, Any]) -> set[str]:
    """Names whose value changed."""
    return {n for n, v in env.names.items() if n not in before or before[n] is not v}


def is_numeric(x: Any) -> bool:
    """True for what can be carried: tiles and numbers."""
    return isinstance(x, (ir.Value, Scalar, bool, int, float, Size, HostNumber)) and not (
        isinstance(x, HostNumber) and x.host is None
    )


def same_number(a: Any, b: Any) -> bool:
    """Equal compile-time numbers: no phi is needed."""
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


class ReturnSignal(Exception):
    """A ``return`` in an inlined function."""

    def __init__(self, value: Any, span: ir.Span | None) -> None:
        super().__init__()
        self.value = value
        self.span = span


class CarriedValues(Lowering):
    """Loop-carried and branch-merged variables, found by running the bodies."""

    def conditionally(self, run: Callable[[], None]) -> None:
        """Run a body that may not run, or run often: it cannot end an inlined function."""
        try:
            run()
        except ReturnSignal as signal:
            raise error(
                "KT0402",
                "'return' under a run-time condition",
                signal.span or self.b.span,
                why="the function is inlined, so what follows its call would have to be skipped",
                remedy="assign in the branches and return once, or use torch.where",
            ) from None

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
                self.conditionally(body)
                outcome = self._yields(params, weak, env, ops)
            if outcome.settled:
                break
            for n in outcome.constant:
                del inits[n], weak[n]
            for n, tile in outcome.widened.items():
                inits[n] = self._widen(inits[n], tile)
                weak[n] = False
        else:
            self.fail("KT0425", "the type of a loop-carried variable does not settle")
        self._finish_loop(env, before, var, params, inits, weak, ops, outcome, build)

    def _yields(
        self, params: dict[str, ir.Value], weak: dict[str, bool], env: Env, ops: list[ir.Op]
    ) -> Outcome:
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
            try:
                joined = self._join(param.tile, value.tile, weak[name])
            except KtError:
                if reads(ops, param):
                    raise
                out.constant.append(name)  # a scratch name: every iteration sets it first
                continue
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
