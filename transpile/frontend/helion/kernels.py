"""Finding the kernels of a file: decorated, in call form, or made by a factory."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import libcst as cst

from transpile.frontend.evaluator import Evaluator
from transpile.frontend.source import ParsedSource
from transpile.frontend.values import Device, Env, Function, Known, ModuleRef, Opaque
from transpile.ir.dtypes import F16, I64

#: constants of helion's own test helpers that its kernels use: value, and torch's spelling
HELPERS: dict[str, tuple[Any, str]] = {
    "helion._testing.DEVICE": (Device(), 'torch.device("cuda")'),
    "helion._testing.HALF_DTYPE": (F16, "torch.float16"),
    "helion._testing.LONG_INT_TYPE": (I64, "torch.int64"),
}

DECORATORS = frozenset({"helion.kernel", "helion.jit", "helion.aot_kernel"})


@dataclass(eq=False)
class KernelSite:
    """One kernel of the file.

    ``name`` is what users call it; ``env`` the scope of its definition (a factory's, with the
    factory's parameters bound, or the module's); ``settings`` the evaluated decorator arguments.
    """

    name: str
    node: cst.FunctionDef
    env: Env
    settings: dict[str, Any]
    statement: cst.CSTNode

    def locate(self, source: ParsedSource) -> None:
        """Make the kernel's positions known; a factory's kernel lies inside its statement."""
        source.locate(self.statement)
        if source.span(self.node) is None:
            source.locate(self.node)


class LazyNames(dict[str, Any]):
    """Module-level names; an assignment is evaluated when first looked up."""

    def __init__(self, evaluate: Callable[[cst.BaseExpression], Any]) -> None:
        super().__init__()
        self.pending: dict[str, cst.BaseExpression] = {}
        self.evaluate = evaluate

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or name in self.pending

    def __missing__(self, name: str) -> Any:
        if name not in self.pending:
            raise KeyError(name)
        node = self.pending[name]
        self[name] = Opaque(f"'{name}', which is defined by itself")
        self[name] = value = self.evaluate(node)
        return value


def module_env(source: ParsedSource, evaluator: Evaluator) -> Env:
    """The module's names: imports, functions, and assignments evaluated on demand."""
    env = Env()

    def evaluate(node: cst.BaseExpression) -> Any:
        return evaluator.eval(node, env)

    names = LazyNames(evaluate)
    env.names = names
    for statement in source.statements:
        if isinstance(statement, cst.FunctionDef):
            names[statement.name.value] = Function(statement, env, statement.name.value)
        elif isinstance(statement, cst.SimpleStatementLine):
            for small in statement.body:
                _module_statement(source, small, names)
        elif isinstance(statement, cst.ClassDef):
            names[statement.name.value] = Opaque(f"class {statement.name.value}")
    return env


def _module_statement(source: ParsedSource, node: cst.CSTNode, names: LazyNames) -> None:
    if isinstance(node, (cst.Import, cst.ImportFrom)):
        names.update(imported(source, node))
    elif isinstance(node, cst.Assign):
        for target in node.targets:
            if isinstance(target.target, cst.Name):
                names.pending[target.target.value] = node.value
                names.pop(target.target.value, None)
    elif (
        isinstance(node, cst.AnnAssign)
        and isinstance(node.target, cst.Name)
        and node.value is not None
    ):
        names.pending[node.target.value] = node.value


def imported(source: ParsedSource, node: cst.Import | cst.ImportFrom) -> dict[str, Any]:
    """Names an import statement binds."""
    out: dict[str, Any] = {}
    if isinstance(node, cst.Import):
        for alias in node.names:
            dotted = source.code(alias.name)
            if alias.asname is not None:
                out[source.code(alias.asname.name)] = ModuleRef(dotted)
            else:
                top = dotted.split(".", 1)[0]
                out[top] = ModuleRef(top)
        return out
    if isinstance(node.names, cst.ImportStar) or node.module is None:
        return out
    base = "." * len(node.relative) + source.code(node.module)
    for alias in node.names:
        name = source.code(alias.name)
        bound = source.code(alias.asname.name) if alias.asname is not None else name
        out[bound] = _library(f"{base}.{name}")
    return out


def _library(dotted: str) -> Any:
    from transpile.ir.dtypes import BY_TORCH

    if dotted.startswith("torch.") and dotted[6:] in BY_TORCH:
        return BY_TORCH[dotted[6:]]
    if dotted in HELPERS:
        return HELPERS[dotted][0]
    if dotted in ("helion.language", "torch.nn.functional", "torch.nn", "torch.special"):
        return ModuleRef(dotted)
    known = ("torch", "helion", "math", "typing")
    if dotted.split(".", 1)[0] in known and not dotted.startswith("helion._"):
        return Known(dotted)
    return Opaque(f"'{dotted}'")


class KernelFinder:
    """Enumerates the kernels of a module."""

    def __init__(self, source: ParsedSource, evaluator: Evaluator, env: Env) -> None:
        self.source = source
        self.evaluator = evaluator
        self.env = env

    def sites(self) -> list[KernelSite]:
        """All kernels, in source order."""
        found: list[KernelSite] = []
        for statement in self.source.statements:
            if isinstance(statement, cst.FunctionDef):
                found.extend(self._function(statement))
            elif isinstance(statement, cst.SimpleStatementLine):
                for small in statement.body:
                    if isinstance(small, cst.Assign) and isinstance(small.value, cst.Call):
                        found.extend(self._call_form(small, statement))
        return found

    def _function(self, node: cst.FunctionDef) -> Iterator[KernelSite]:
        settings = self._decorator(node, self.env)
        if settings is not None:
            yield KernelSite(node.name.value, node, self.env, settings, node)
            return
        if self.mentions_kernel(node):
            yield from self._factory(node)

    def mentions_kernel(self, node: cst.FunctionDef) -> bool:
        """Cheap test before looking inside a function for kernels it makes."""
        return re.search(r"\b(kernel|jit|aot_kernel)\b", self.source.code(node.body)) is not None

    def _decorator(self, node: cst.FunctionDef, env: Env) -> dict[str, Any] | None:
        for decorator in node.decorators:
            expression = decorator.decorator
            call = expression if isinstance(expression, cst.Call) else None
            func = call.func if call is not None else expression
            if self._is_kernel(func, env):
                return {} if call is None else self._settings(call, env)
        return None

    def _is_kernel(self, func: cst.BaseExpression, env: Env) -> bool:
        if not isinstance(func, (cst.Name, cst.Attribute)):
            return False
        value = self.evaluator.eval(func, env)
        return isinstance(value, Known) and value.name in DECORATORS

    def _settings(self, call: cst.Call, env: Env) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for arg in call.args:
            if arg.keyword is not None:
                out[arg.keyword.value] = self.evaluator.eval(arg.value, env)
            elif arg.star == "**":
                extra = self.evaluator.eval(arg.value, env)
                out.update(extra if isinstance(extra, dict) else {})
        return out

    def _call_form(self, node: cst.Assign, statement: cst.CSTNode) -> Iterator[KernelSite]:
        """``k = helion.kernel(f, ...)`` and ``k = helion.kernel(...)(f)``."""
        target = node.targets[0].target
        made = self._made(node.value, self.env)
        if made is None or not isinstance(target, cst.Name):
            return
        func, settings = made
        yield KernelSite(target.value, func, self.env, settings, func)

    def _made(
        self, node: cst.BaseExpression, env: Env
    ) -> tuple[cst.FunctionDef, dict[str, Any]] | None:
        if not isinstance(node, cst.Call):
            return None
        if isinstance(node.func, cst.Call) and self._is_kernel(node.func.func, env):
            func = self._plain_function(node.args, env)
            return None if func is None else (func, self._settings(node.func, env))
        if self._is_kernel(node.func, env):
            func = self._plain_function(node.args, env)
            return None if func is None else (func, self._settings(node, env))
        return None

    def _plain_function(self, args: Any, env: Env) -> cst.FunctionDef | None:
        for arg in args:
            if arg.keyword is None or arg.keyword.value == "fn":
                value = self.evaluator.eval(arg.value, env)
                if isinstance(value, Function) and isinstance(value.node, cst.FunctionDef):
                    return value.node
        return None

    def _factory(self, node: cst.FunctionDef) -> Iterator[KernelSite]:
        """Kernels a function defines or makes; its parameters come from defaults and --set."""
        env = Env(outer=self.env)
        for param in (*node.params.params, *node.params.kwonly_params):
            name = param.name.value
            env.names[name] = (
                self.evaluator.eval(param.default, self.env)
                if param.default is not None
                else Opaque(f"parameter '{name}' of '{node.name.value}'")
            )
        made: list[KernelSite] = []
        for statement in node.body.body:
            if isinstance(statement, cst.FunctionDef):
                settings = self._decorator(statement, env)
                if settings is not None:
                    made.append(KernelSite(statement.name.value, statement, env, settings, node))
                env.names[statement.name.value] = Function(statement, env, statement.name.value)
            elif isinstance(statement, cst.SimpleStatementLine):
                for small in statement.body:
                    made.extend(self._factory_statement(small, env, node))
        yield from made

    def _factory_statement(
        self, node: cst.CSTNode, env: Env, factory: cst.FunctionDef
    ) -> Iterator[KernelSite]:
        value = node.value if isinstance(node, (cst.Assign, cst.Return)) else None
        if value is None:
            return
        result = self._made(value, env)
        if result is not None:
            func, settings = result
            yield KernelSite(factory.name.value, func, env, settings, factory)
        elif isinstance(node, cst.Assign) and isinstance(node.targets[0].target, cst.Name):
            env.names[node.targets[0].target.value] = self.evaluator.eval(value, env)
