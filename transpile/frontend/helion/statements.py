"""Device statements: assignments, loops with carried values, branches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import libcst as cst

from transpile.frontend.builder import Builder, describe
from transpile.frontend.helion.carried import ReturnSignal
from transpile.frontend.helion.loops import Loops
from transpile.frontend.helion.scan import body_of
from transpile.frontend.source import ParsedSource
from transpile.frontend.values import (
    Env,
    Function,
    HostTensor,
)
from transpile.ir import ir
from transpile.ir.diagnostics import error

Statement = cst.BaseStatement | cst.BaseSmallStatement


class DeviceStatements(Loops):
    """Executes device statements against an environment, emitting IR."""

    def __init__(self, source: ParsedSource, builder: Builder, config: dict[str, Any]) -> None:
        super().__init__(source, builder, config)
        self.device_handlers: dict[type, Callable[[Any, Env], None]] = {
            cst.SimpleStatementLine: lambda node, env: self.run(node.body, env),
            cst.Assign: self._assign,
            cst.AnnAssign: self._ann_assign,
            cst.AugAssign: self._aug_assign,
            cst.Expr: lambda node, env: self.eval(node.value, env),
            cst.For: self.for_loop,
            cst.If: self.if_statement,
            cst.While: self.while_loop,
            cst.FunctionDef: self._define,
            cst.Return: self._return,
            cst.Assert: self._assert,
            cst.Pass: lambda node, env: None,
            cst.Import: lambda node, env: None,
            cst.ImportFrom: lambda node, env: None,
            cst.Global: lambda node, env: None,
        }

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
        handler = self.device_handlers.get(type(node))
        if handler is not None:
            handler(node, env)
            return
        words = {
            "ClassDef": "a class",
            "Break": "'break'",
            "Continue": "'continue'",
            "Del": "'del'",
        }
        kind = type(node).__name__
        what = words.get(kind, f"'{kind.lower()}'")
        loops = kind in ("Break", "Continue")
        why = "a tile loop runs all its tiles" if loops else ""
        self.construct(node, what, why, "use an if statement" if loops else "")

    def _define(self, node: cst.FunctionDef, env: Env) -> None:
        env.names[node.name.value] = Function(node, env, node.name.value)

    def _ann_assign(self, node: cst.AnnAssign, env: Env) -> None:
        if node.value is not None:
            self._bind_target(node.target, self._value_for(node.target, node.value, env), env)

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
            self.construct(node, "a chained assignment", "", "assign one name at a time")
        target = node.targets[0].target
        self._bind_target(target, self._value_for(target, node.value, env), env)

    def _bind_target(self, target: cst.BaseExpression, value: Any, env: Env) -> None:
        if isinstance(target, cst.Subscript):
            self._store_target(target, value, env)
        elif isinstance(target, (cst.Name, cst.Tuple, cst.List)):
            self.bind(target, value, env)
        else:
            self.construct(target, "this assignment target", "", "assign to a name or a subscript")

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
            self.construct(node, "'return'", "a tile has nowhere to return to", "store the value")
        raise ReturnSignal(
            None if node.value is None else self.eval(node.value, env), self.source.span(node)
        )

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
            self.conditionally(lambda: self.run(body_of(node), env))
            then_env = dict(env.names)
        env.names.clear()
        env.names.update(before)
        with self.b.region() as else_ops:
            if (orelse := node.orelse) is not None:
                self.conditionally(lambda: self._orelse(orelse, env))
            else_env = dict(env.names)
        self._merge(env, before, cond, (then_ops, then_env), (else_ops, else_env))

    def _orelse(self, node: cst.If | cst.Else, env: Env) -> None:
        if isinstance(node, cst.If):
            self.statement(node, env)
        else:
            self.run(body_of(node), env)
