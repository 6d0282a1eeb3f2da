"""Expression evaluation over libcst, for host code (symbolic) and device code (emits IR).

One evaluator serves both: compile-time values fold, symbolic sizes stay polynomials, and once a
device value is an operand the builder emits IR. What a library function means is looked up in
tables the dialect passes in; the evaluator itself only knows Python.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NoReturn

import libcst as cst

from transpile.frontend.builder import Builder, describe
from transpile.frontend.indexing import Indexer, device_view
from transpile.frontend.inlining import Inlining
from transpile.frontend.operators import Operators
from transpile.frontend.source import ParsedSource
from transpile.frontend.symbolic import HostShape
from transpile.frontend.values import (
    Builtin,
    Env,
    Function,
    Gone,
    HostTensor,
    Known,
    Method,
    ModuleRef,
    Opaque,
    Scalar,
)
from transpile.ir import ir
from transpile.ir.diagnostics import KtError, error
from transpile.ir.dtypes import I32, DType

BUILTINS = frozenset(
    {
        "abs", "all", "any", "bool", "divmod", "enumerate", "float", "getattr", "int",
        "isinstance", "len", "list", "max", "min", "pow", "print", "range", "reversed", "round",
        "slice", "sorted", "str", "sum", "tuple", "type", "zip",
    }
)  # fmt: skip


class Evaluator(Operators, Inlining):
    """Evaluates expressions of one source file.

    ``on_device`` switches what unknown names and host tensors mean. ``library`` maps a known
    function's dotted name, and ``methods`` a method name, to ``f(evaluator, args, kwargs)``.
    """

    def __init__(self, source: ParsedSource, builder: Builder) -> None:
        self.source = source
        self.b = builder
        self.indexer = Indexer(builder)
        builder.require_int = lambda value: self.indexer.require_index(value, I32)
        self.on_device = False
        self.device_names: set[str] = set()  # set by device loops that have ended
        self.depth = 0
        self.handlers: dict[type, Callable[[Any, Env], Any]] = {
            cst.Name: self._name,
            cst.Integer: lambda n, _: ast.literal_eval(n.value),
            cst.Float: lambda n, _: ast.literal_eval(n.value),
            cst.SimpleString: lambda n, _: ast.literal_eval(n.value),
            cst.ConcatenatedString: self._concatenated,
            cst.FormattedString: lambda n, _: "",
            cst.Tuple: lambda n, env: tuple(self._elements(n.elements, env)),
            cst.List: lambda n, env: list(self._elements(n.elements, env)),
            cst.Dict: self._dict,
            cst.Attribute: self._attribute,
            cst.Subscript: self._subscript,
            cst.BinaryOperation: self._binary,
            cst.UnaryOperation: self._unary,
            cst.BooleanOperation: self._boolean,
            cst.Comparison: self._comparison,
            cst.IfExp: self._ifexp,
            cst.Call: self._call,
            cst.Lambda: lambda n, env: Function(n, env, "<lambda>"),
            cst.Ellipsis: lambda n, _: Ellipsis,
            cst.ListComp: self._comprehension,
            cst.GeneratorExp: self._comprehension,
            cst.NamedExpr: self._named,
        }

    # -- entry -----------------------------------------------------------------------------

    def eval(self, node: cst.BaseExpression, env: Env) -> Any:
        """The value of an expression."""
        handler = self.handlers.get(type(node))
        if handler is None:
            return self.unsupported(node, f"{type(node).__name__} expression")
        saved = self.b.span
        self.b.span = self.source.span(node) or saved
        try:
            return handler(node, env)
        except KtError as exc:
            raise self._located(exc, node) from None
        finally:
            self.b.span = saved

    def _located(self, exc: KtError, node: cst.CSTNode) -> KtError:
        span = self.source.span(node)
        if span is None or all(d.span for d in exc.diagnostics):
            return exc
        return KtError(*(d if d.span else replace(d, span=span) for d in exc.diagnostics))

    def unsupported(self, node: cst.CSTNode, what: str, remedy: str = "") -> Any:
        """Not understood: an opaque value on the host, a diagnostic on the device."""
        if not self.on_device:
            return Opaque(what)
        raise error(
            "KT0402",
            f"{what} in device code",
            self.source.span(node) or self.b.span,
            why="the device language has no such construct",
            remedy=remedy,
        )

    def fail(self, code: str, message: str, *, why: str = "", remedy: str = "") -> NoReturn:
        raise error(code, message, self.b.span, why=why, remedy=remedy)

    # -- names and literals ------------------------------------------------------------------

    def _name(self, node: cst.Name, env: Env) -> Any:
        name = node.value
        try:
            value = env.lookup(name)
        except KeyError:
            constants = {"True": True, "False": False, "None": None}
            if name in constants:
                return constants[name]
            if name in BUILTINS:
                return Builtin(name)
            if self.on_device:
                self.fail("KT0403", f"name '{name}' is not defined", remedy="check the spelling")
            if name in self.device_names:
                self.fail(
                    "KT0404",
                    f"'{name}' has no value here",
                    why="device loops leave no values on the host",
                    remedy="store it to a tensor",
                )
            return Opaque(f"name '{name}'")
        if isinstance(value, Gone) and self.on_device:
            self.fail("KT0404", f"'{name}' has no value here", why=value.why)
        return value

    def _concatenated(self, node: cst.ConcatenatedString, env: Env) -> Any:
        left, right = self.eval(node.left, env), self.eval(node.right, env)
        return str(left) + str(right)

    def _elements(self, elements: Sequence[Any], env: Env) -> list[Any]:
        out: list[Any] = []
        for element in elements:
            value = self.eval(element.value, env)
            if isinstance(element, cst.StarredElement):
                if not isinstance(value, (tuple, list)):
                    raise _StarOfUnknown(self, element, value).build()
                out.extend(value)
            else:
                out.append(value)
        return out

    def _dict(self, node: cst.Dict, env: Env) -> Any:
        out: dict[Any, Any] = {}
        for element in node.elements:
            if not isinstance(element, cst.DictElement):
                return self.unsupported(node, "dict unpacking")
            key = self.eval(element.key, env)
            if not isinstance(key, (str, int, bool, DType, tuple)):
                return self.unsupported(node, "dict with a computed key")
            out[key] = self.eval(element.value, env)
        return out

    def _named(self, node: cst.NamedExpr, env: Env) -> Any:
        value = self.eval(node.value, env)
        if isinstance(node.target, cst.Name):
            env.names[node.target.value] = value
        return value

    # -- attributes and subscripts ----------------------------------------------------------

    def _attribute(self, node: cst.Attribute, env: Env) -> Any:
        return self.attribute(self.eval(node.value, env), node.attr.value)

    def attribute(self, owner: Any, name: str) -> Any:
        """``owner.name``; the dialect's subclass adds what its objects have."""
        if isinstance(owner, ModuleRef):
            return self.module_member(owner, name)
        if isinstance(owner, Opaque):
            return Opaque(f"{owner.what}.{name}")
        return Method(owner, name)

    def module_member(self, module: ModuleRef, name: str) -> Any:
        return Known(f"{module.name}.{name}")

    def _subscript(self, node: cst.Subscript, env: Env) -> Any:
        owner = self.eval(node.value, env)
        entries = self.index_entries(node, env)
        return self.subscript(owner, entries)

    def index_entries(self, node: cst.Subscript, env: Env) -> list[Any]:
        """The evaluated index of a subscript, as a flat list."""
        entries: list[Any] = []
        for element in node.slice:
            part = element.slice
            if isinstance(part, cst.Slice):
                bounds = [
                    None if bound is None else self.eval(bound, env)
                    for bound in (part.lower, part.upper, part.step)
                ]
                entries.append(slice(*bounds))
                continue
            assert isinstance(part, cst.Index)
            value = self.eval(part.value, env)
            if part.star or (isinstance(value, (tuple, list)) and len(node.slice) == 1):
                entries.extend(value)
            else:
                entries.append(value)
        return entries

    def subscript(self, owner: Any, entries: list[Any]) -> Any:
        if isinstance(owner, HostTensor) and self.on_device:
            return self.load(owner, entries)
        if isinstance(owner, ir.Value):
            return device_view(self.b, owner, entries)
        if isinstance(owner, HostShape) and entries and isinstance(entries[0], (int, slice)):
            owner.require(entries[0])
        if isinstance(owner, (tuple, list, str)):
            if len(entries) == 1 and isinstance(entries[0], (int, slice)):
                try:
                    return owner[entries[0]]
                except (IndexError, TypeError):
                    self.fail("KT0405", f"index {entries[0]} is out of range of {len(owner)} items")
            return Opaque("element of a sequence at an unknown index")
        if isinstance(owner, dict):
            return owner.get(entries[0], Opaque("dict entry"))
        if isinstance(owner, HostTensor):
            return self.host_subscript(owner, entries)
        if isinstance(owner, Opaque):
            return Opaque(f"{owner.what}[...]")
        return self.fail("KT0405", f"{describe(owner)} cannot be subscripted")

    def load(self, tensor: HostTensor, entries: list[Any]) -> Any:
        """Read device memory; the dialect's evaluator overrides."""
        return self.fail("KT0402", "a load outside a kernel")

    def host_subscript(self, tensor: HostTensor, entries: list[Any]) -> Any:
        return Opaque("element of a host tensor")

    # -- comprehensions and calls --------------------------------------------------------------

    def _comprehension(self, node: cst.ListComp | cst.GeneratorExp, env: Env) -> Any:
        loop = node.for_in
        items = self.iterate(self.eval(loop.iter, env))
        if items is None or loop.inner_for_in is not None:
            return self.unsupported(node, "this comprehension")
        out: list[Any] = []
        for item in items:
            inner = Env(outer=env)
            self.bind(loop.target, item, inner)
            if all(self.truth(self.eval(test.test, inner)) for test in loop.ifs):
                out.append(self.eval(node.elt, inner))
        return out

    def iterate(self, value: Any) -> Sequence[Any] | None:
        """The items of a compile-time sequence, or None."""
        if isinstance(value, (tuple, list, range)):
            return list(value)
        if isinstance(value, dict):
            return list(value)
        return None

    def bind(self, target: cst.BaseExpression, value: Any, env: Env) -> None:
        """Assign to a name or a (nested) tuple of names."""
        if isinstance(target, cst.Name):
            self.bind_name(target.value, value, env)
            return
        if isinstance(target, (cst.Tuple, cst.List)):
            self._unpack(target, value, env)
            return
        self.unsupported(target, "this assignment target")

    def bind_name(self, name: str, value: Any, env: Env) -> None:
        inner = value.value if isinstance(value, Scalar) else value
        if isinstance(inner, ir.Value) and inner.name is None:
            inner.name = name
        env.names[name] = value

    def _unpack(self, target: cst.Tuple | cst.List, value: Any, env: Env) -> None:
        names = [element.value for element in target.elements]
        if isinstance(value, HostShape):
            value = value.unpacked(len(names))
        if isinstance(value, Opaque):
            value = [Opaque(f"part of {value.what}") for _ in names]
        if not isinstance(value, (tuple, list)):
            self.fail("KT0410", f"cannot unpack {describe(value)} into {len(names)} names")
        if len(value) != len(names):
            raise error(
                "KT0410",
                f"{len(value)} values for {len(names)} names",
                self.source.span(target) or self.b.span,
                why="a tensor's size has one entry per dimension of its signature",
                remedy="make the signature's rank and the unpacking agree",
            )
        for name, item in zip(names, value, strict=True):
            self.bind(name, item, env)

    def _call(self, node: cst.Call, env: Env) -> Any:
        func = self.eval(node.func, env)
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for arg in node.args:
            value = self.eval(arg.value, env)
            if arg.star == "*":
                if isinstance(value, HostShape):
                    value = value.unpacked(None)
                if not isinstance(value, (tuple, list)):
                    return self.unsupported(node, "unpacking an unknown sequence into arguments")
                args.extend(value)
            elif arg.star == "**":
                if not isinstance(value, dict):
                    return self.unsupported(node, "unpacking an unknown dict into arguments")
                kwargs.update(value)
            elif arg.keyword is not None:
                kwargs[arg.keyword.value] = value
            else:
                args.append(value)
        return self.call(func, args, kwargs, node)

    def call(self, func: Any, args: list[Any], kwargs: dict[str, Any], node: cst.CSTNode) -> Any:
        if isinstance(func, Function):
            if self.on_device:
                return self.inline(func, args, kwargs, node)
            return self.inline_on_host(func, args, kwargs, node)
        if isinstance(func, Opaque):
            return self.unsupported(node, f"a call of {func.what}")
        return self.call_known(func, args, kwargs, node)

    def call_known(
        self, func: Any, args: list[Any], kwargs: dict[str, Any], node: cst.CSTNode
    ) -> Any:
        return self.unsupported(node, f"a call of {describe(func)}")


class _StarOfUnknown:
    def __init__(self, evaluator: Evaluator, element: Any, value: Any) -> None:
        self.evaluator, self.element, self.value = evaluator, element, value

    def build(self) -> KtError:
        return error(
            "KT0410",
            f"cannot unpack {describe(self.value)}",
            self.evaluator.source.span(self.element) or self.evaluator.b.span,
        )
