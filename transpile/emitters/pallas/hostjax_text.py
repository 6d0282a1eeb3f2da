"""Host statements from torch to JAX, one at a time, on libcst trees."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterable

import libcst as cst
import libcst.matchers as m

from transpile.emitters.common.layout import WIDTH, wrap
from transpile.emitters.pallas import hostjax_alloc as alloc
from transpile.emitters.pallas import hostjax_calls as calls
from transpile.emitters.pallas.hostjax_dtypes import REFUSED, host_dtype, spell
from transpile.ir import ir
from transpile.ir.diagnostics import KtError, error
from transpile.ir.dtypes import BY_TORCH

_DEVICE = "__kt_device__"  # stands for what says where a tensor is; no JAX statement asks that
_MODULE = cst.Module([])

#: what generated modules call the modules that they use
OURS = frozenset({"functools", "jax", "jnp", "kt", "lax", "pl", "pltpu"})

_IN_PLACE_CALL = re.compile(r"\.(" + "|".join(calls.IN_PLACE) + r")\(")


def code(node: cst.CSTNode) -> str:
    """Source text of a node."""
    return _MODULE.code_for_node(node)


def torch_imports(prelude: str) -> dict[str, str]:
    """Local names of torch and of its parts -> qualified names, from import statements."""
    found = {"torch": "torch"}
    for module, name, bound in re.findall(
        r"^from (torch[\w.]*) import (\w+)(?: as (\w+))?", prelude, re.MULTILINE
    ):
        found[bound or name] = f"{module}.{name}"
    for module, bound in re.findall(r"^import (torch[\w.]*)(?: as (\w+))?", prelude, re.MULTILINE):
        found[bound or module.partition(".")[0]] = module if bound else "torch"
    return found


class Translator:
    """Rewrites expressions and statements. ``tensors`` are names known to be arrays."""

    def __init__(self, imports: dict[str, str], tensors: Iterable[str] = ()) -> None:
        self.imports = imports
        self.tensors = set(tensors)
        self.span: ir.Span | None = None

    def check_names(self, names: Iterable[str]) -> None:
        """KT0632 where the program has a variable of a name that its JAX code needs."""
        for name in names:
            if name in OURS:
                raise error(
                    "KT0632", f"the host program has a variable `{name}`", self.span,
                    why="generated Pallas modules call a module so", remedy="rename it",
                )  # fmt: skip

    def expression(self, text: str) -> str:
        """An expression's text in JAX. Raises KtError."""
        return self._checked(self.node(cst.parse_expression(text)))

    def annotation(self, text: str) -> str:
        """A type annotation; quoted ones stay quoted."""
        if text[:1] in "'\"":
            return f'"{self.annotation(text[1:-1])}"'
        return self.expression(text)

    def statement(self, text: str) -> str:
        """The text of complete statements in JAX, "" where nothing is left of them."""
        module = cst.parse_module(text + "\n")
        translated = module.visit(_Rewriter(self))
        assert isinstance(translated, cst.Module)
        return relaid(text, self._checked(translated).strip("\n"))

    def node(self, node: cst.CSTNode) -> cst.CSTNode:
        """The translated node."""
        found = node.visit(_Rewriter(self))
        assert isinstance(found, cst.CSTNode)
        return found

    def _checked(self, node: cst.CSTNode) -> str:
        text = node.code if isinstance(node, cst.Module) else code(node)
        if (left := _IN_PLACE_CALL.search(text)) is not None:
            raise self.refuse(left[0], "jax.Arrays cannot be changed in place")
        if _DEVICE in text:
            raise self.refuse(".device", "where an array is, is JAX's business")
        return text

    def refuse(self, what: str, why: str) -> KtError:
        """KT0630 for a call that has no counterpart."""
        return error(
            "KT0630",
            f"`{what}` in the host program has no counterpart in JAX",
            self.span,
            why=why or "kt's table of host calls for Pallas does not have it",
            remedy="move it out of the kernel function, or write it with calls that "
            "`kt targets` lists for pallas",
        )

    def qualified(self, node: cst.BaseExpression) -> str | None:
        """``torch.nn.functional.gelu`` for ``F.gelu``; None for what is not torch's."""
        if isinstance(node, cst.Name):
            return self.imports.get(node.value)
        if isinstance(node, cst.Attribute):
            base = self.qualified(node.value)
            return None if base is None else f"{base}.{node.attr.value}"
        return None


class _Rewriter(cst.CSTTransformer):
    """What torch spells, as JAX spells it; children first."""

    def __init__(self, translator: Translator) -> None:
        super().__init__()
        self.t = translator

    # -- expressions ---------------------------------------------------------------------------

    def leave_Call(self, original_node: cst.Call, updated_node: cst.Call) -> cst.BaseExpression:
        func = original_node.func
        name = self.t.qualified(func)
        call = self._call(updated_node, name or code(func))
        if name is not None:
            return self._function(name, call)
        if isinstance(func, cst.Attribute) and isinstance(updated_node.func, cst.Attribute):
            call.receiver = code(updated_node.func.value)
            return self._method(func, call, updated_node)
        return updated_node

    def _call(self, node: cst.Call, name: str) -> calls.Call:
        args = [a.star + code(a.value) for a in node.args if a.keyword is None]
        kwargs = {a.keyword.value: code(a.value) for a in node.args if a.keyword is not None}
        return calls.Call(name, "", args, kwargs)

    def _function(self, name: str, call: calls.Call) -> cst.BaseExpression:
        if name == "torch.device":
            return cst.Name(_DEVICE)
        short = name.removeprefix("torch.")
        if short in alloc.FUNCTIONS:
            return self._parsed(name, lambda: alloc.allocation(short, call).array())
        if name not in calls.FUNCTIONS:
            raise self.t.refuse(name, "")
        return self._parsed(name, lambda: calls.translate(calls.FUNCTIONS[name], call))

    def _method(self, func: cst.Attribute, call: calls.Call, node: cst.Call) -> cst.BaseExpression:
        name = func.attr.value
        spelled = f".{name}()"
        if name in alloc.METHODS:
            return self._parsed(spelled, lambda: alloc.allocation(name, call).array())
        if name in calls.METHODS and call.receiver not in ("math", "np", "numpy", "operator"):
            return self._parsed(spelled, lambda: calls.translate(calls.METHODS[name], call))
        if name in calls.IN_PLACE:
            return node  # a statement of its own; leave_Expr takes it
        if isinstance(func.value, cst.Name) and func.value.value in self.t.tensors:
            raise self.t.refuse(spelled, "")
        return node

    def _parsed(self, what: str, make: object) -> cst.BaseExpression:
        assert callable(make)
        try:
            return cst.parse_expression(make())
        except calls.Untranslatable as problem:
            raise self.t.refuse(what, str(problem)) from None

    def leave_Attribute(
        self, original_node: cst.Attribute, updated_node: cst.Attribute
    ) -> cst.BaseExpression:
        name = self.t.qualified(original_node)
        if name is not None:
            return self._torch_name(name, updated_node)
        attr = updated_node.attr.value
        if attr == "device":
            return cst.Name(_DEVICE)
        if isinstance(original_node.value, cst.Name) and original_node.value.value == "math":
            return updated_node
        entry = calls.ATTRIBUTES.get(attr)
        if entry is None:
            return updated_node
        call = calls.Call(attr, code(updated_node.value), [])
        return cst.parse_expression(calls.translate(entry, call))

    def leave_Name(self, original_node: cst.Name, updated_node: cst.Name) -> cst.BaseExpression:
        name = self.t.imports.get(original_node.value)
        if name is None or name in ("torch", "torch.nn", "torch.nn.functional"):
            return updated_node
        return self._torch_name(name, updated_node)

    def _torch_name(self, name: str, node: cst.BaseExpression) -> cst.BaseExpression:
        """dtypes, types and constants of torch; functions stay for their call."""
        short = name.removeprefix("torch.")
        if short in BY_TORCH:
            dtype = BY_TORCH[short]
            if dtype.name in REFUSED:
                raise self.t.refuse(name, REFUSED[dtype.name])
            return cst.parse_expression(spell(host_dtype(dtype)))
        if short in _NAMES:
            return cst.parse_expression(_NAMES[short])
        return node

    # -- what the source dialect's functions came out as -------------------------------------------

    def leave_UnaryOperation(
        self, original_node: cst.UnaryOperation, updated_node: cst.UnaryOperation
    ) -> cst.BaseExpression:
        """``pl.cdiv(a, b)`` for ``-(-a // b)``."""
        parts = m.extract(updated_node, _CEILING)
        return updated_node if parts is None else _called("pl.cdiv", parts["over"], parts["by"])

    def leave_BinaryOperation(
        self, original_node: cst.BinaryOperation, updated_node: cst.BinaryOperation
    ) -> cst.BaseExpression:
        """``pl.next_power_of_2(n)`` for ``1 << (n - 1).bit_length()``."""
        parts = m.extract(updated_node, _POWER)
        return updated_node if parts is None else _called("pl.next_power_of_2", parts["n"])

    # -- conditions that only torch has ----------------------------------------------------------

    def leave_Comparison(
        self, original_node: cst.Comparison, updated_node: cst.Comparison
    ) -> cst.BaseExpression:
        if _DEVICE in code(updated_node):
            return cst.Name("True")
        targets = [
            c.with_changes(
                operator=cst.Equal() if isinstance(c.operator, cst.Is) else cst.NotEqual()
            )
            if isinstance(c.operator, cst.Is | cst.IsNot) and calls.is_dtype(code(c.comparator))
            else c
            for c in updated_node.comparisons
        ]
        return updated_node.with_changes(comparisons=targets)

    def leave_BooleanOperation(
        self, original_node: cst.BooleanOperation, updated_node: cst.BooleanOperation
    ) -> cst.BaseExpression:
        left, right = code(updated_node.left), code(updated_node.right)
        if isinstance(updated_node.operator, cst.And):
            if left == "True":
                return updated_node.right
            return updated_node.left if right == "True" else updated_node
        return cst.Name("True") if "True" in (left, right) else updated_node

    # -- statements ------------------------------------------------------------------------------

    def leave_Assert(
        self, original_node: cst.Assert, updated_node: cst.Assert
    ) -> cst.BaseSmallStatement | cst.RemovalSentinel:
        return cst.RemoveFromParent() if code(updated_node.test) == "True" else updated_node

    def leave_Expr(self, original_node: cst.Expr, updated_node: cst.Expr) -> cst.BaseSmallStatement:
        """``x.zero_()`` and the like."""
        node = updated_node.value
        if not isinstance(node, cst.Call) or not isinstance(node.func, cst.Attribute):
            return updated_node
        entry = calls.IN_PLACE.get(node.func.attr.value)
        if entry is None:
            return updated_node
        call = self._call(node, f".{node.func.attr.value}()")
        call.receiver = code(node.func.value)
        value = self._parsed(call.name, lambda: calls.translate(entry, call))
        return self._updated(node.func.value, value)

    def leave_Assign(
        self, original_node: cst.Assign, updated_node: cst.Assign
    ) -> cst.BaseSmallStatement:
        target = updated_node.targets[0].target
        if len(updated_node.targets) == 1 and self._is_element(target):
            return self._updated(target, updated_node.value)
        return updated_node

    def leave_AugAssign(
        self, original_node: cst.AugAssign, updated_node: cst.AugAssign
    ) -> cst.BaseSmallStatement:
        target = updated_node.target
        if not self._is_element(target):
            return updated_node
        operator = _AUGMENTED.get(type(updated_node.operator))
        if operator is None:
            raise self.t.refuse(code(updated_node), "jax.Array.at has no such update")
        assert isinstance(target, cst.Subscript)
        return _assign(target.value, f"{_at(target)}.{operator}({code(updated_node.value)})")

    def _is_element(self, target: cst.CSTNode) -> bool:
        return (
            isinstance(target, cst.Subscript)
            and isinstance(target.value, cst.Name)
            and target.value.value in self.t.tensors
        )

    def _updated(
        self, target: cst.BaseExpression, value: cst.BaseExpression
    ) -> cst.BaseSmallStatement:
        """``target = value`` for a name or for elements of one."""
        if isinstance(target, cst.Subscript):
            return _assign(target.value, f"{_at(target)}.set({code(value)})")
        return _assign(target, code(value))


def host_calls() -> list[str]:
    """torch's functions, and methods with a dot before them, that host programs may call."""
    functions = {
        name.removeprefix("torch.").removeprefix("nn.functional.") for name in calls.FUNCTIONS
    }
    methods = {f".{name}" for name in (*calls.METHODS, *calls.IN_PLACE, *alloc.METHODS)}
    makers = alloc.FUNCTIONS - {"rand", "randn", "empty_strided"}
    return [*sorted(functions | makers), *sorted(methods)]


_NAMES = {
    "Tensor": "jax.Array", "dtype": "jnp.dtype", "device": "jax.Device", "inf": "jnp.inf",
    "nan": "jnp.nan", "pi": "jnp.pi", "e": "jnp.e", "Size": "tuple[int, ...]",
}  # fmt: skip

_CEILING = m.UnaryOperation(
    operator=m.Minus(),
    expression=m.BinaryOperation(
        left=m.UnaryOperation(
            operator=m.Minus(), expression=m.SaveMatchedNode(m.DoNotCare(), "over")
        ),
        operator=m.FloorDivide(),
        right=m.SaveMatchedNode(m.DoNotCare(), "by"),
    ),
)
_POWER = m.BinaryOperation(
    left=m.Integer("1"),
    operator=m.LeftShift(),
    right=m.Call(
        func=m.Attribute(
            value=m.BinaryOperation(
                left=m.SaveMatchedNode(m.DoNotCare(), "n"),
                operator=m.Subtract(),
                right=m.Integer("1"),
            ),
            attr=m.Name("bit_length"),
        ),
        args=[],
    ),
)


def _called(function: str, *args: object) -> cst.BaseExpression:
    bare = [
        node.with_changes(lpar=[], rpar=[]) for node in args if isinstance(node, cst.BaseExpression)
    ]
    return cst.parse_expression(f"{function}({', '.join(code(a) for a in bare)})")


_AUGMENTED: dict[type[cst.BaseAugOp], str] = {
    cst.AddAssign: "add", cst.MultiplyAssign: "multiply", cst.DivideAssign: "divide",
    cst.PowerAssign: "power",
}  # fmt: skip


def _at(target: cst.Subscript) -> str:
    whole = code(target)
    base = code(target.value)
    return f"{base}.at{whole[len(base) :]}"


def _assign(target: cst.BaseExpression, value: str) -> cst.Assign:
    assert isinstance(target, cst.BaseAssignTargetExpression)
    return cst.Assign([cst.AssignTarget(target)], cst.parse_expression(value))


# -- layout ----------------------------------------------------------------------------------------


def relaid(source: str, text: str) -> str:
    """The translated statements within the line length, comments of the source kept.

    A statement that fits stays as the source laid it out; comments inside a call that was rewritten
    go above it.
    """
    lost = [c for c in comments(source) if c not in text]
    if any(len(line) + 4 > WIDTH for line in text.split("\n")):
        text = "\n".join(_wrapped(text))
    return "\n".join([*lost, text]) if lost else text


def _wrapped(text: str) -> list[str]:
    module = cst.parse_module(text + "\n")
    lines: list[str] = []
    for statement in module.body:
        own = code(statement).strip("\n")
        if isinstance(statement, cst.SimpleStatementLine) and not comments(own):
            lines += [line[4:] for line in wrap(one_line(own), 4)]
        else:
            lines += own.split("\n")
    return lines


def comments(text: str) -> list[str]:
    """The comments in a piece of source, in order."""
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(text + "\n").readline))
    except (tokenize.TokenError, IndentationError):
        return []
    return [t.string for t in tokens if t.type == tokenize.COMMENT]


def one_line(text: str) -> str:
    """A statement without its line breaks inside brackets."""
    out = ""
    previous: tokenize.TokenInfo | None = None
    tokens = [
        t
        for t in tokenize.generate_tokens(io.StringIO(text + "\n").readline)
        if t.type not in (tokenize.NL, tokenize.COMMENT, tokenize.NEWLINE, tokenize.ENDMARKER)
    ]
    for token in tokens:
        if previous is not None and token.start[0] != previous.end[0]:
            if token.string in (")", "]", "}"):
                out = out.removesuffix(",")
            elif previous.string not in ("(", "[", "{"):
                out += " "
        elif previous is not None:
            out += " " * (token.start[1] - previous.end[1])
        out += token.string
        previous = token
    return out
