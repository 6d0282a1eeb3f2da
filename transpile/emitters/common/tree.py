"""The little tree between Tile IR and Python text: expressions, variables, statements.

Names are not decided here: a :class:`Var` carries a preferred name, and names.py gives each
variable its spelling once all live ranges are known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from transpile.ir.dtypes import DType
from transpile.ir.sizes import Size

# Python's precedence levels, higher binds tighter.
# Floor division is given one of its own below multiplication, so that a mix of both is printed with
# parentheses that a reader wants though Python needs none.
(
    TERNARY, OR, AND, NOT, COMPARE, BIT_OR, BIT_XOR, BIT_AND, SHIFT, ADD, FLOOR, MUL, UNARY, POWER,
    ATOM,
) = range(15)  # fmt: skip


@dataclass(eq=False, slots=True)
class Var:
    """A variable of the generated kernel. ``hint`` is the name it would like to have."""

    hint: str
    argument: bool = False  # bound on entry; its name is never reused
    name: str = ""


@dataclass(frozen=True, slots=True)
class Expr:
    """A Python expression: ``template`` with ``{0}``.. replaced by ``args``.

    ``needs[i]`` is the precedence argument i must have to stand without parentheses. ``var`` is
    set on a plain reference. ``dtype`` (None for a Python literal) and ``shape`` are what the
    target infers, which may differ from what the IR says: a scalar where a tile is meant, f32
    where a division of halves is.
    """

    template: str
    args: tuple[Expr, ...] = ()
    needs: tuple[int, ...] = ()
    prec: int = ATOM
    var: Var | None = None
    dtype: DType | None = None
    shape: tuple[Size, ...] = ()
    is_load: bool = False
    ordinal: int = -1  # of a load, in program order

    @property
    def loads(self) -> bool:
        """True if it reads memory: it must not move over a store."""
        return self.is_load or any(a.loads for a in self.args)

    @property
    def is_literal(self) -> bool:
        """A number, printed as such."""
        return self.var is None and not self.args and self.dtype is None and self.shape == ()

    def vars(self) -> Iterator[Var]:
        """Every variable that occurs, once per occurrence."""
        if self.var is not None:
            yield self.var
        for arg in self.args:
            yield from arg.vars()

    def text(self) -> str:
        """Python source, with the parentheses it needs and no others."""
        if self.var is not None:
            return self.var.name or self.var.hint
        if not self.args:
            return self.template
        parts = []
        for arg, need in zip(self.args, self.needs, strict=True):
            text = arg.text()
            parts.append(text if arg.prec >= need else f"({text})")
        return self.template.format(*parts)

    def replace_vars(self, mapping: Callable[[Var], Expr | None]) -> Expr:
        """The expression with some variables replaced by expressions."""
        if self.var is not None:
            return mapping(self.var) or self
        if not self.args:
            return self
        args = tuple(a.replace_vars(mapping) for a in self.args)
        if all(a is b for a, b in zip(args, self.args, strict=True)):
            return self
        return retyped(self, args=args)


def retyped(expr: Expr, **changes: object) -> Expr:
    """``dataclasses.replace`` that keeps the type checker quiet about slots."""
    from dataclasses import replace

    return replace(expr, **changes)  # type: ignore[arg-type]


def ref(var: Var, dtype: DType | None = None, shape: tuple[Size, ...] = ()) -> Expr:
    """A reference to a variable."""
    return Expr("", var=var, dtype=dtype, shape=shape)


def lit(text: str, prec: int = ATOM) -> Expr:
    """A number or other fixed text."""
    return Expr(text, prec=UNARY if text.startswith("-") else prec)


def call(
    function: str,
    *args: Expr,
    dtype: DType | None = None,
    shape: tuple[Size, ...] = (),
    **keywords: Expr,
) -> Expr:
    """``function(args..., keyword=value...)``."""
    slots = [f"{{{i}}}" for i in range(len(args))]
    slots += [f"{k}={{{i + len(args)}}}" for i, k in enumerate(keywords)]
    every = (*args, *keywords.values())
    return Expr(
        f"{function}({', '.join(slots)})",
        every,
        (TERNARY,) * len(every),
        dtype=dtype,
        shape=shape,
    )


def binary(
    symbol: str,
    lhs: Expr,
    rhs: Expr,
    prec: int,
    dtype: DType | None = None,
    shape: tuple[Size, ...] = (),
) -> Expr:
    """``lhs symbol rhs``, left associative; comparisons do not chain."""
    left, right = (prec + 1 if prec == COMPARE else prec), prec + 1
    if symbol in ("//", "%"):
        left, right, prec = UNARY, UNARY, FLOOR
    return Expr(
        f"{{0}} {symbol} {{1}}",
        (lhs, rhs),
        (left, right),
        prec,
        dtype=dtype,
        shape=shape,
    )


def postfix(
    expr: Expr, suffix: str, dtype: DType | None = None, shape: tuple[Size, ...] = ()
) -> Expr:
    """``expr`` followed by an attribute, call or subscript."""
    suffix = suffix.replace("{", "{{").replace("}", "}}")
    return Expr("{0}" + suffix, (expr,), (ATOM,), ATOM, dtype=dtype, shape=shape)


def sequence(items: list[Expr]) -> Expr:
    """``[a, b]``."""
    slots = ", ".join(f"{{{i}}}" for i in range(len(items)))
    return Expr(f"[{slots}]", tuple(items), (TERNARY,) * len(items))


# -- statements ---------------------------------------------------------------------------------


@dataclass(eq=False, slots=True)
class Assign:
    """``targets = value``. ``tidy`` says what may be done to it once uses are known: "drop" it
    when unused, or also "inline" it into its only use."""

    targets: tuple[Var, ...]
    value: Expr
    tidy: str = ""


@dataclass(eq=False, slots=True)
class Eval:
    """An expression for its effect."""

    value: Expr


@dataclass(eq=False, slots=True)
class Copy:
    """Parallel assignment at a loop's or branch's edge; names.py removes most of it."""

    pairs: list[tuple[Var, Expr]]


@dataclass(eq=False, slots=True)
class For:
    """``for target in iterator``; ``carried`` are the variables that live from turn to turn."""

    target: Var
    iterator: Expr
    body: list[Stmt]
    carried: tuple[Var, ...] = ()


@dataclass(eq=False, slots=True)
class While:
    """``while cond``; every variable of ``cond`` is carried or from outside."""

    cond: Expr
    body: list[Stmt]
    carried: tuple[Var, ...] = ()


@dataclass(eq=False, slots=True)
class If:
    """``carried`` are the variables that both branches bind."""

    cond: Expr
    then: list[Stmt]
    orelse: list[Stmt] = field(default_factory=list)
    carried: tuple[Var, ...] = ()


@dataclass(eq=False, slots=True)
class Function:
    """A nested function ``def name(params): body``, a scope of its own, called right behind it.

    ``decorator`` is what stands above it, e.g. ``pl.when(cond)``.
    """

    name: Var
    params: tuple[Var, ...]
    body: list[Stmt]
    decorator: Expr | None = None


@dataclass(eq=False, slots=True)
class Return:
    """``return values``."""

    values: tuple[Expr, ...]


@dataclass(eq=False, slots=True)
class Comment:
    """A line of comment, without the ``#``."""

    text: str


Stmt = Assign | Eval | Copy | For | While | If | Function | Return | Comment


def uses(stmt: Stmt) -> Iterator[Var]:
    """Variables the statement itself reads, not those of its nested blocks."""
    match stmt:
        case Assign(value=value) | Eval(value=value):
            yield from value.vars()
        case Copy(pairs=pairs):
            for _, value in pairs:
                yield from value.vars()
        case For(iterator=iterator):
            yield from iterator.vars()
        case While(cond=cond) | If(cond=cond):
            yield from cond.vars()
        case Function(decorator=decorator):
            if decorator is not None:
                yield from decorator.vars()
        case Return(values=values):
            for value in values:
                yield from value.vars()
        case Comment():
            return


def blocks(stmt: Stmt) -> tuple[list[Stmt], ...]:
    """Nested blocks of a statement."""
    match stmt:
        case For(body=body) | While(body=body) | Function(body=body):
            return (body,)
        case If(then=then, orelse=orelse):
            return (then, orelse)
        case _:
            return ()


def free_variables(function: Function) -> list[Var]:
    """Variables that a nested function reads and does not bind, in order of first use."""
    bound: set[Var] = set(function.params)
    used: dict[Var, None] = {}

    def visit(body: list[Stmt]) -> None:
        for stmt in body:
            used.update(dict.fromkeys(uses(stmt)))
            match stmt:
                case Assign(targets=targets):
                    bound.update(targets)
                case Copy(pairs=pairs):
                    bound.update(t for t, _ in pairs)
                case For(target=target):
                    bound.add(target)
                case Function(name=name, params=params):
                    bound.update((name, *params))
                case _:
                    pass
            for block in blocks(stmt):
                visit(block)

    visit(function.body)
    return [v for v in used if v not in bound]
