"""Breaking of long lines, and augmented assignments."""

from __future__ import annotations

import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transpile.emitters.common.layout import WIDTH, assignment, wrap


def test_short_lines_stay() -> None:
    assert wrap("x = f(a, b)", 4) == ["    x = f(a, b)"]


def test_short_arguments_share_lines() -> None:
    options = ", ".join(f"OPTION_{i}={i}" for i in range(10))
    assert wrap(f"launch = kt.Launcher(_a_rather_long_name_of_a_kernel, {options})", 0) == [
        "launch = kt.Launcher(",
        "    _a_rather_long_name_of_a_kernel,",
        "    OPTION_0=0, OPTION_1=1, OPTION_2=2, OPTION_3=3, OPTION_4=4, OPTION_5=5, OPTION_6=6, OPTION_7=7,",
        "    OPTION_8=8, OPTION_9=9,",
        ")",
    ]


def test_sums_break_before_operators() -> None:
    terms = " + ".join(f"some_rather_long_name_{i}" for i in range(6))
    lines = wrap(f"total = {terms}", 0)
    assert lines[0] == "total = ("
    assert lines[2] == "    + some_rather_long_name_1"
    assert lines[-1] == ")"


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        ("x + 1", "x += 1"),
        ("x + y * 2", "x += y * 2"),
        ("x + (y + z)", "x += y + z"),
        ("x + y + z", "x = x + y + z"),
        ("x - y - z", "x = x - y - z"),
        ("x * y", "x *= y"),
        ("x * y + z", "x = x * y + z"),
        ("x * (y + z)", "x *= y + z"),
        ("x * y / z", "x = x * y / z"),
        ("x >> 1", "x >>= 1"),
        ("xx + 1", "x = xx + 1"),
        ("x & y == z", "x = x & y == z"),
    ],
)
def test_augmented_assignment(value: str, printed: str) -> None:
    assert assignment("x", value, 0) == [printed]


_names = st.sampled_from(["a", "value", "a_rather_long_name", "another_name_that_is_even_longer"])


@st.composite
def expressions(draw: st.DrawFn, depth: int = 3) -> str:
    if depth == 0 or draw(st.integers(0, 3)) == 0:
        return draw(_names)
    left, right = draw(expressions(depth=depth - 1)), draw(expressions(depth=depth - 1))
    kind = draw(st.sampled_from(["call", "index", "+", "*", "&", "paren"]))
    if kind == "call":
        return f"function({left}, {right}, key={right})"
    if kind == "index":
        return f"{draw(_names)}[{left}, {right}]"
    return f"({left})" if kind == "paren" else f"({left} {kind} {right})"


@given(expressions(depth=5), st.sampled_from([0, 4, 8]))
def test_wrapping_keeps_the_meaning(value: str, indent: int) -> None:
    text = f"x = {value}"
    lines = wrap(text, indent)
    assert all(len(line) <= WIDTH or " " not in line.strip() for line in lines)
    joined = "\n".join(line[indent:] for line in lines)
    assert ast.dump(ast.parse(joined)) == ast.dump(ast.parse(text))


def test_string_literals_stay_whole() -> None:
    asm = repr("{ add.f32 $0, $1, $2; // (not a bracket\n" * 4)
    text = f"x = tl.inline_asm_elementwise({asm}, '=f,f,f', [a_value, another_value], pack=1)"
    lines = wrap(text, 4)
    assert any(asm in line for line in lines)
    ast.parse("\n".join(line.removeprefix("    ") for line in lines))
