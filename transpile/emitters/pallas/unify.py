"""One kernel for several signatures: their statement trees walked side by side.

Where the trees differ in a conversion, the one that converts is taken, as it does nothing to what
is of the type already; element types are read off the refs; numbers become keyword arguments. Any
other difference ends it (:class:`Different`).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from transpile.emitters.common.tree import (
    ATOM,
    Assign,
    Comment,
    Copy,
    Eval,
    Expr,
    For,
    Function,
    If,
    Return,
    Stmt,
    Var,
    While,
    lit,
    ref,
    retyped,
)
from transpile.emitters.pallas.dtypes import NAMES
from transpile.ir.dtypes import DType

_BY_NAME = {name: dtype for dtype, name in NAMES.items()}
_CAST = re.compile(r"\{0\}\.astype\((jnp\.\w+|\{1\}\.dtype)\)$")
_PRECISION = re.compile(r", precision=\{(\d)\}\)$")


class Different(Exception):
    """The kernels do not differ in what can be a parameter only."""


@dataclass(eq=False, slots=True)
class Unifier:
    """Walks the trees of ``count`` kernels; the result is in the first one's variables.

    ``refs`` are refs of the first kernel with their element types in all of them, for casts;
    ``sized`` gives the first kernel's variable for a size that has these numbers. After the walk
    ``extras`` are the other keyword arguments that the kernel needs, with their values.
    """

    count: int
    refs: list[tuple[Var, tuple[DType, ...]]]
    sized: Callable[[tuple[float, ...]], Var | None] = lambda _: None
    extras: list[tuple[Var, tuple[str, ...]]] = field(default_factory=list)
    _first: list[dict[Var, Var]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._first = [{} for _ in range(self.count)]

    # -- variables -----------------------------------------------------------------------------

    def var(self, own: Sequence[Var]) -> Var:
        """The first kernel's variable; the others' must stand for the same one everywhere."""
        first = own[0]
        for known, var in zip(self._first, own, strict=True):
            if known.setdefault(var, first) is not first:
                raise Different
        return first

    def bound(self, own: Sequence[Var]) -> Var:
        """A variable where it is bound, with the plainest of its names."""
        first = self.var(own)
        if not first.argument:
            first.hint = min((v.hint for v in own), key=len)
        return first

    # -- statements ----------------------------------------------------------------------------

    def block(self, blocks: Sequence[list[Stmt]]) -> list[Stmt]:
        """Blocks of the same statements."""
        if len({len(b) for b in blocks}) > 1:
            raise Different
        return [self.stmt(stmts) for stmts in zip(*blocks, strict=True)]

    def stmt(self, own: Sequence[Stmt]) -> Stmt:
        """Statements of one kind."""
        first = own[0]
        if len({type(s) for s in own}) > 1:
            raise Different
        match first:
            case Assign():
                value = self.expr([s.value for s in own])  # type: ignore[union-attr]
                targets = self._bound([s.targets for s in own])  # type: ignore[union-attr]
                return Assign(targets, value, first.tidy)
            case Eval():
                return Eval(self.expr([s.value for s in own]))  # type: ignore[union-attr]
            case Copy():
                return self._copy([s.pairs for s in own])  # type: ignore[union-attr]
            case Function():
                return self._function(own)  # type: ignore[arg-type]
            case Return():
                return Return(self._exprs([s.values for s in own]))  # type: ignore[union-attr]
            case Comment():
                return first
            case _:
                return self._control(own)

    def _control(self, own: Sequence[Stmt]) -> Stmt:
        first = own[0]
        match first:
            case For():
                iterator = self.expr([s.iterator for s in own])  # type: ignore[union-attr]
                target = self.bound([s.target for s in own])  # type: ignore[union-attr]
                body = self.block([s.body for s in own])  # type: ignore[union-attr]
                return For(target, iterator, body, self._carried(own))
            case While():
                cond = self.expr([s.cond for s in own])  # type: ignore[union-attr]
                body = self.block([s.body for s in own])  # type: ignore[union-attr]
                return While(cond, body, self._carried(own))
            case If():
                cond = self.expr([s.cond for s in own])  # type: ignore[union-attr]
                then = self.block([s.then for s in own])  # type: ignore[union-attr]
                orelse = self.block([s.orelse for s in own])  # type: ignore[union-attr]
                return If(cond, then, orelse, self._carried(own))
            case _:
                raise Different

    def _bound(self, targets: Sequence[tuple[Var, ...]]) -> tuple[Var, ...]:
        if len({len(t) for t in targets}) > 1:
            raise Different
        return tuple(self.bound(own) for own in zip(*targets, strict=True))

    def _carried(self, own: Sequence[Stmt]) -> tuple[Var, ...]:
        return self._bound([s.carried for s in own])  # type: ignore[union-attr]

    def _copy(self, own: Sequence[list[tuple[Var, Expr]]]) -> Copy:
        if len({len(pairs) for pairs in own}) > 1:
            raise Different
        pairs = []
        for items in zip(*own, strict=True):
            value = self.expr([v for _, v in items])
            pairs.append((self.bound([t for t, _ in items]), value))
        return Copy(pairs)

    def _function(self, own: Sequence[Function]) -> Function:
        decorators = [f.decorator for f in own]
        decorator = None
        if decorators[0] is not None:
            if any(d is None for d in decorators):
                raise Different
            decorator = self.expr([d for d in decorators if d is not None])
        elif any(d is not None for d in decorators):
            raise Different
        params = self._bound([f.params for f in own])
        body = self.block([f.body for f in own])
        return Function(self.bound([f.name for f in own]), params, body, decorator)

    # -- expressions ---------------------------------------------------------------------------

    def _exprs(self, own: Sequence[tuple[Expr, ...]]) -> tuple[Expr, ...]:
        if len({len(items) for items in own}) > 1:
            raise Different
        return tuple(self.expr(items) for items in zip(*own, strict=True))

    def expr(self, own: Sequence[Expr], role: str = "") -> Expr:
        """Expressions that differ in conversions, numbers and element types at most; ``role`` says
        what a number among them would be called."""
        if any(_CAST.match(e.template) for e in own):
            return self._cast(own)
        first = own[0]
        if first.var is not None or any(e.var is not None for e in own):
            if any(e.var is None for e in own):
                raise Different
            var = self.var([e.var for e in own if e.var is not None])
            return ref(var, first.dtype, first.shape)
        if all(e.is_literal or not e.args for e in own):
            return self._literal(own, role)
        own = _with_precision(own)
        first = own[0]
        if len({e.template for e in own}) > 1:
            raise Different
        roles = _roles(first.template, len(first.args))
        columns = list(zip(*(e.args for e in own), strict=True))
        args = tuple(self.expr(c, r) for c, r in zip(columns, roles, strict=True))
        return retyped(first, args=args)

    def _cast(self, own: Sequence[Expr]) -> Expr:
        """``.astype`` of all; to the type of a ref where they convert to different types."""
        targets = [e.dtype for e in own]
        if None in targets or not all(t in NAMES for t in targets):
            raise Different
        wanted = tuple(t for t in targets if t is not None)
        named = next((e.args[1] for e in own if e.template == "{0}.astype({1}.dtype)"), None)
        inner = self.expr([e.args[0] if _CAST.match(e.template) else e for e in own])
        first = own[0]
        if named is not None:
            at = next(i for i, e in enumerate(own) if e.args and e.args[-1] is named)
            var = self._first[at].get(named.var) if named.var is not None else None
            if var is not None and (var, wanted) in self.refs:
                return _converted(inner, ref(var), first)
        if len(set(wanted)) == 1:
            template = f"{{0}}.astype({NAMES[wanted[0]]})"
            return Expr(template, (inner,), (ATOM,), ATOM, dtype=wanted[0], shape=first.shape)
        return _converted(inner, self._typed(wanted), first)

    def _typed(self, wanted: tuple[DType, ...]) -> Expr:
        """A ref whose element type is the wanted one in every kernel."""
        for var, dtypes in self.refs:
            if dtypes == wanted:
                return ref(var)
        raise Different

    def _literal(self, own: Sequence[Expr], role: str) -> Expr:
        texts = tuple(e.template for e in own)
        if len(set(texts)) == 1:
            return own[0]
        if all(t in _BY_NAME for t in texts):
            typed = self._typed(tuple(_BY_NAME[t] for t in texts))
            return Expr("{0}.dtype", (typed,), (ATOM,))
        if all(t in ("None", "lax.Precision.HIGHEST") for t in texts):
            return self._keyword("precision", texts)
        numbers = tuple(n for t in texts if (n := _number(t)) is not None)
        if len(numbers) < len(texts):
            raise Different
        if len(set(numbers)) == 1:  # 0 and 0.0: Python's numbers take the array's type
            return min(own, key=lambda e: len(e.template))
        if (size := self.sized(numbers)) is not None:
            return ref(size)
        return self._keyword(role or "number", texts)

    def _keyword(self, name: str, values: tuple[str, ...]) -> Expr:
        for var, known in self.extras:
            if known == values:
                return ref(var)
        taken = {var.name for var, _ in self.extras} | {var.name for var, _ in self.refs}
        while name in taken:
            name += "_"
        var = Var(name, argument=True, name=name)
        self.extras.append((var, values))
        return ref(var)


def _converted(inner: Expr, typed: Expr, like: Expr) -> Expr:
    return Expr(
        "{0}.astype({1}.dtype)", (inner, typed), (ATOM, ATOM), ATOM, dtype=like.dtype,
        shape=like.shape,
    )  # fmt: skip


def _number(text: str) -> int | float | None:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _roles(template: str, count: int) -> list[str]:
    """What numbers in the places of a template are called."""
    role = {"{0} * {1}": "scale", "{0} / {1}": "divisor"}.get(template, "")
    return [role] * count


def _with_precision(own: Sequence[Expr]) -> Sequence[Expr]:
    """Products with the precision as an argument in all of them if it is in one."""
    full = next((e for e in own if _PRECISION.search(e.template)), None)
    if full is None:
        return own
    bare = _PRECISION.sub(")", full.template)
    return [
        retyped(e, template=full.template, args=(*e.args, lit("None")), needs=full.needs)
        if e.template == bare
        else e
        for e in own
    ]
