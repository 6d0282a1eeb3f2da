"""Symbolic sizes against Python's own integers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transpile.ir.sizes import ONE, ZERO, Size, Sym, common_divisor

SYMS = [
    Sym("M", "dim"), Sym("N", "dim"), Sym("S", "stride"), Sym("BLOCK", "block"), Sym("n", "scalar"),
]  # fmt: skip
M, N, S, BLOCK, SCALAR = map(Size.of, SYMS)

Expr = tuple[Size, Callable[[dict[Sym, int]], int]]
"""A size, and the same arithmetic on integers (None where it divides by zero)."""


def _ceildiv(a: int, b: int) -> int:
    if b <= 0:
        raise ZeroDivisionError
    return -(-a // b)


def _binary(op: str, a: Expr, b: Expr) -> Expr:
    symbolic: dict[str, Callable[[Size, Size], Size]] = {
        "+": lambda x, y: x + y, "-": lambda x, y: x - y, "*": lambda x, y: x * y,
        "//": lambda x, y: x // y, "%": lambda x, y: x % y,
        "ceildiv": lambda x, y: x.ceildiv(y), "min": lambda x, y: x.min(y),
        "max": lambda x, y: x.max(y),
    }  # fmt: skip
    concrete: dict[str, Callable[[int, int], int]] = {
        "+": lambda x, y: x + y, "-": lambda x, y: x - y, "*": lambda x, y: x * y,
        "//": lambda x, y: x // y, "%": lambda x, y: x % y, "ceildiv": _ceildiv,
        "min": min, "max": max,
    }  # fmt: skip
    return symbolic[op](a[0], b[0]), lambda env: concrete[op](a[1](env), b[1](env))


_leaves = st.one_of(
    st.integers(-12, 12).map(lambda i: (Size.of(i), lambda env: i)),
    st.sampled_from(SYMS).map(lambda s: (Size.of(s), lambda env: env[s])),
)
exprs = st.recursive(
    _leaves,
    lambda inner: st.builds(
        _binary, st.sampled_from(["+", "-", "*", "//", "%", "ceildiv", "min", "max"]), inner, inner
    ),
    max_leaves=8,
)
envs = st.fixed_dictionaries(
    {
        SYMS[0]: st.integers(0, 40), SYMS[1]: st.integers(0, 40), SYMS[2]: st.integers(0, 40),
        SYMS[3]: st.integers(1, 64), SYMS[4]: st.integers(-20, 20),
    }
)  # fmt: skip


def _value(expr: Expr, env: dict[Sym, int]) -> int | None:
    try:
        return expr[1](env)
    except ZeroDivisionError:
        return None


@given(exprs, envs)
def test_evaluation(expr: Expr, env: dict[Sym, int]) -> None:
    value = _value(expr, env)
    if value is not None:
        assert expr[0].evaluate(env) == value


@given(exprs, envs)
def test_render_is_python(expr: Expr, env: dict[Sym, int]) -> None:
    value = _value(expr, env)
    if value is not None:
        names = {s.name: v for s, v in env.items()}
        assert eval(expr[0].render(lambda s: s.name), {"min": min, "max": max}, names) == value


@given(exprs, envs, st.integers(1, 16), st.sampled_from(SYMS), st.integers(1, 8))
def test_divisible_by(expr: Expr, env: dict[Sym, int], n: int, sym: Sym, factor: int) -> None:
    env = {**env, sym: env[sym] * factor}
    value = _value(expr, env)
    if value is not None and expr[0].divisible_by(n, {sym: factor}):
        assert value % n == 0


@given(exprs, envs)
def test_non_negative(expr: Expr, env: dict[Sym, int]) -> None:
    value = _value(expr, env)
    if value is not None and expr[0].non_negative:
        assert value >= 0


@given(exprs, envs, st.sampled_from(SYMS), exprs)
def test_substitute(expr: Expr, env: dict[Sym, int], sym: Sym, replacement: Expr) -> None:
    inner = _value(replacement, env)
    if inner is None:
        return
    try:
        replaced = expr[0].substitute({sym: replacement[0]})
        expected = expr[0].evaluate({**env, sym: inner})
    except (ZeroDivisionError, KeyError):
        return
    assert replaced.evaluate(env) == expected


@given(exprs, exprs, exprs)
def test_ring_laws_are_equalities(a: Expr, b: Expr, c: Expr) -> None:
    x, y, z = a[0], b[0], c[0]
    assert x + y == y + x
    assert x * y == y * x
    assert (x + y) * z == x * z + y * z
    assert x - x == ZERO
    assert x * ONE == x
    assert x.min(y) == y.min(x)
    assert x.max(y) == y.max(x)
    assert hash(x * y) == hash(y * x)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (ZERO, "0"),
        (M * N, "M * N"),
        (2 * M + 1, "M * 2 + 1"),
        (M * 4 // 4, "M"),
        ((M * N + N) // N, "M + 1"),
        ((M + 3) // 4, "(M + 3) // 4"),
        (M.ceildiv(BLOCK), "(BLOCK + M - 1) // BLOCK"),
        ((M * 8).ceildiv(4), "M * 2"),
        (M % 1, "0"),
        (M * BLOCK % BLOCK, "0"),
        (M.min(M + 1), "M"),
        (M.max(7 + M), "M + 7"),
        (M.min(N), "min(M, N)"),
        ((M // 2) * 3, "(M // 2) * 3"),
        (Size.of(7) // 2, "3"),
        (Size.of(-7) // 2, "-4"),
        (M - N, "M - N"),
        (-M, "-M"),
    ],
)
def test_text(size: Size, text: str) -> None:
    assert str(size) == text


def test_queries() -> None:
    assert Size.of(3).as_int() == 3
    assert (M - M).as_int() == 0
    assert M.as_int() is None
    assert M.as_sym() == SYMS[0]
    assert (M * 2).as_sym() is None
    assert (M // (N % S)).syms == frozenset(SYMS[:3])
    assert (M * 6 + 9).divisible_by(3)
    assert not M.divisible_by(2)
    assert M.divisible_by(16, {SYMS[0]: 32})
    assert not (SCALAR + 1).non_negative
    assert (M * N + 2).non_negative


def test_evaluate_names_what_is_missing() -> None:
    with pytest.raises(KeyError, match="N"):
        (M + N).evaluate({SYMS[0]: 1})


def test_common_divisor() -> None:
    assert common_divisor([12, 18]) == 6
    assert common_divisor([]) == 0
