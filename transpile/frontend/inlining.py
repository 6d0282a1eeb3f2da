"""Calls of source functions: arguments bound, body evaluated in place."""

from __future__ import annotations

from typing import Any, NoReturn

import libcst as cst

from transpile.frontend.values import (
    Env,
    Function,
    Opaque,
)
from transpile.ir.diagnostics import KtError

MAX_INLINE_DEPTH = 24


class Inlining:
    """A mixin of :class:`~transpile.frontend.evaluator.Evaluator`."""

    depth: int

    def eval(self, node: cst.BaseExpression, env: Env) -> Any:
        raise NotImplementedError

    def fail(self, code: str, message: str, *, why: str = "", remedy: str = "") -> NoReturn:
        raise NotImplementedError

    # -- inlining ----------------------------------------------------------------------------

    def inline(
        self, func: Function, args: list[Any], kwargs: dict[str, Any], node: cst.CSTNode
    ) -> Any:
        """Evaluate a source function's body on these arguments."""
        if self.depth >= MAX_INLINE_DEPTH:
            self.fail(
                "KT0411",
                f"'{func.name}' is recursive",
                why="device functions are inlined, so their calls must end at compile time",
                remedy="rewrite the recursion as a loop",
            )
        env = Env(outer=func.env)
        self._bind_arguments(func, args, kwargs, env)
        self.depth += 1
        try:
            if isinstance(func.node, cst.Lambda):
                return self.eval(func.node.body, env)
            return self.run_body(func, env)
        finally:
            self.depth -= 1

    def inline_on_host(
        self, func: Function, args: list[Any], kwargs: dict[str, Any], node: cst.CSTNode
    ) -> Any:
        """A host helper is followed as far as it is understood; it runs unchanged anyway."""
        try:
            return self.inline(func, args, kwargs, node)
        except KtError:
            return Opaque(f"the result of '{func.name}'")

    def run_body(self, func: Function, env: Env) -> Any:
        """Run a function's statements; a dialect's evaluator that knows statements overrides."""
        return Opaque(f"the result of '{func.name}'")

    def _bind_arguments(
        self, func: Function, args: list[Any], kwargs: dict[str, Any], env: Env
    ) -> None:
        params = func.node.params
        positional = [*params.posonly_params, *params.params]
        rest = list(args)
        for param in positional:
            name = param.name.value
            if rest:
                env.names[name] = rest.pop(0)
            elif name in kwargs:
                env.names[name] = kwargs.pop(name)
            elif param.default is not None:
                env.names[name] = self.eval(param.default, func.env)
            else:
                self.fail("KT0412", f"'{func.name}' needs an argument for '{name}'")
        for param in params.kwonly_params:
            name = param.name.value
            if name in kwargs:
                env.names[name] = kwargs.pop(name)
            elif param.default is not None:
                env.names[name] = self.eval(param.default, func.env)
            else:
                self.fail("KT0412", f"'{func.name}' needs an argument for '{name}'")
        if isinstance(params.star_arg, cst.Param):
            env.names[params.star_arg.name.value] = tuple(rest)
            rest = []
        if isinstance(params.star_kwarg, cst.Param):
            env.names[params.star_kwarg.name.value] = dict(kwargs)
            kwargs = {}
        if rest or kwargs:
            extra = next(iter(kwargs), f"{len(args)} positional")
            self.fail("KT0412", f"'{func.name}' does not take this argument ({extra})")
