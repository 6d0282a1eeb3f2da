"""Numbers with formulas: they compute as numbers, and their formulas give the same."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from transpile.ir.dtypes import F16, F32
from transpile.thread.named import (
    BytesOf,
    Constant,
    Named,
    Number,
    Operation,
    bytes_of,
    evaluate,
    formula_of,
    is_open,
    named,
    rounded_up,
    several,
    whole_times,
)

NUMBERS = st.one_of(
    st.integers(1, 300),
    st.builds(named, st.integers(1, 300), st.sampled_from(["BM", "BN", "WM"])),
)


@given(NUMBERS, NUMBERS, NUMBERS, st.sampled_from("+*/%"), st.sampled_from("+-*/%"))
def test_formulas_give_the_number(a: int, b: int, c: int, first: str, second: str) -> None:
    def apply(symbol: str, x: int, y: int) -> int:
        if symbol in "/%":
            return x if y == 0 else x // y if symbol == "/" else x % y
        return x + y if symbol == "+" else x - y if symbol == "-" else x * y

    found = apply(second, apply(first, a, b), c)
    assert found == apply(second, apply(first, int(a), int(b)), int(c))
    if isinstance(found, Named):
        assert evaluate(found.formula) == found


@given(NUMBERS, NUMBERS)
def test_rounding_up(a: int, b: int) -> None:
    assert rounded_up(a, b) == -(-int(a) // int(b))
    assert whole_times(a, b) == -(-int(a) // int(b)) * int(b)


def test_formulas_are_short() -> None:
    bm, wm = named(64, "BM"), named(2, "WM", is_open=True)
    tiles = bm // (wm * 8)
    assert formula_of(bm * 1 + 0) == Constant("BM", 64)
    assert formula_of(wm * 8 * 32 // 32) == formula_of(wm * 8)
    assert formula_of(tiles * (wm * 8)) == Constant("BM", 64)  # the quotient is exact
    assert formula_of(bm // wm // 5 * 5) != formula_of(bm // wm)
    named_tiles = named(tiles, "TM", tiles)
    assert formula_of(named_tiles * (wm * 8)) == Constant("BM", 64)
    assert not isinstance(tiles // named_tiles, Named)
    assert bm // bm == 1
    assert not isinstance(bm // bm, Named)
    assert formula_of(16 // bytes_of(F16)) == Operation("/", Number(16), BytesOf(F16), exact=True)


def test_open_numbers_stay_open() -> None:
    one = named(1, "WM", is_open=True)
    assert several(one)
    assert several(one * 4 // 4)
    assert not several(named(1, "BM"))
    assert is_open(64 // (one * 8))
    assert is_open(16 // bytes_of(F32))
    assert not is_open(named(64, "BM") // 8)


def test_negative_results_are_plain() -> None:
    assert not isinstance(named(3, "A") - 5, Named)
    assert not isinstance(-named(3, "A"), Named)
