"""Every code is explained, every explained code is used, and the page in docs is current."""

from __future__ import annotations

import re

import pytest

from tests.kt_command import ROOT
from transpile.ir.codes import CODES, RANGES, is_usage, markdown
from transpile.ir.diagnostics import Diagnostic, KtError, error, note, render, sort_key
from transpile.ir.ir import Span


def codes_in_source() -> set[str]:
    found: set[str] = set()
    for path in (ROOT / "transpile").rglob("*.py"):
        if path.name != "codes.py":
            found.update(re.findall(r'"(KT\d{4})[":]', path.read_text()))
    return found


def test_codes_in_the_source_are_explained() -> None:
    assert codes_in_source() - CODES.keys() == set()


def test_explained_codes_are_used() -> None:
    assert CODES.keys() - codes_in_source() == set()


@pytest.mark.parametrize("code", sorted(CODES))
def test_code_is_well_formed(code: str) -> None:
    info = CODES[code]
    assert re.fullmatch(r"KT\d{4}", code)
    assert any(code.startswith(prefix) for prefix in RANGES)
    assert info.title
    assert not info.title.endswith(".")
    assert info.explanation.rstrip("`").endswith((".", "?"))
    assert "\n" not in info.title + info.explanation


def test_page_is_current() -> None:
    """scripts/update.py rewrites it."""
    assert (ROOT / "docs" / "diagnostics.md").read_text() == markdown()
    assert all(f"| {code} |" in markdown() for code in CODES)


def test_unknown_code_is_an_assertion() -> None:
    with pytest.raises(AssertionError):
        error("KT9999", "no such code")


def test_usage_codes() -> None:
    assert is_usage("KT0001")
    assert is_usage("KT0011")
    assert not is_usage("KT0021")
    assert not is_usage("KT0900")


SOURCE = "def f():\n\ty = torch.foo(x)  # é\n"


def test_render() -> None:
    diag = Diagnostic("KT0101", "bad", Span(2, 6, 2, 18), "because", "do this", file="k.py")
    assert render(diag, SOURCE) == (
        "k.py:2:6: error KT0101: bad\n"
        "    y = torch.foo(x)  # é\n"
        "        ^^^^^^^^^^^^\n"
        "  why: because\n"
        "  help: do this"
    )


@pytest.mark.parametrize(
    ("span", "text", "carets"),
    [
        (Span(1, 1), "abc", "^"),
        (Span(1, 3, 1, 99), "abc", "  ^"),  # an end beyond the line
        (Span(1, 9), "abc", "   ^"),  # a column beyond the line
        (Span(1, 2, 3, 1), "abc", " ^^"),  # several lines: to the end of the first
        (Span(1, 2, 1, 2), "abc", " ^"),
        (Span(7, 1), "abc", None),  # no such line
        (Span(1, 1), "", None),
        (Span(1, 2, 1, 3), "a\tb", " ^"),
        (Span(1, 3, 1, 4), "a\tb", " \t^"),  # tabs stay tabs, so that carets line up
    ],
)
def test_carets(span: Span, text: str, carets: str | None) -> None:
    lines = render(Diagnostic("KT0101", "bad", span, file="k.py"), text).split("\n")
    assert lines[2:] == ([] if carets is None else [f"    {carets}"])


def test_long_lines_are_cut_around_the_caret() -> None:
    text = "a" * 300 + "BAD" + "c" * 300
    lines = render(Diagnostic("KT0101", "bad", Span(1, 301, 1, 304)), text).split("\n")
    assert max(map(len, lines)) < 140
    start = lines[2].index("^")
    assert lines[1][start : start + 3] == "BAD"
    assert lines[2].strip() == "^^^"


def test_control_characters_do_not_reach_the_terminal() -> None:
    diag = Diagnostic("KT0101", "bad \x1b[31m", Span(1, 1), file="k\x1b.py", why="\x07")
    text = render(diag, "x = '\x1b[2J\x00'")
    assert all(c.isprintable() or c == "\n" for c in text)


def test_several_in_one_error() -> None:
    first = error("KT0302", "one", Span(3, 1)).diagnostics[0]
    second = note("KT0208", "two", Span(1, 1))
    exc = KtError(first, second)
    assert sorted(exc.diagnostics, key=sort_key) == [second, first]
    assert "one" in str(exc)
    assert second.to_json()["severity"] == "note"
