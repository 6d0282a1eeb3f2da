"""Names out of SSA: one name per source variable, and none where Triton would misread it."""

from __future__ import annotations

import keyword

from hypothesis import given
from hypothesis import strategies as st

from transpile.emitters.common.layout import render
from transpile.emitters.common.names import RESERVED, Namer, mangle
from transpile.emitters.common.tree import (
    ADD,
    Assign,
    Copy,
    Eval,
    Expr,
    For,
    If,
    Stmt,
    Var,
    binary,
    call,
    lit,
    ref,
)


@given(st.text(max_size=12), st.sets(st.text(max_size=8), max_size=4))
def test_mangled_names_are_legal_and_free(name: str, taken: set[str]) -> None:
    ascii_name = name.encode("ascii", "ignore").decode()
    result = mangle(ascii_name, taken)
    assert result.isidentifier()
    assert not keyword.iskeyword(result)
    assert result not in RESERVED
    assert result not in taken


def printed(body: list[Stmt], *arguments: Var) -> list[str]:
    for var in arguments:
        var.argument, var.name = True, var.hint
    Namer(body, arguments).run()
    return render(body, 0)


def plus(a: Var, b: Var | str) -> Expr:
    return binary("+", ref(a), lit(b) if isinstance(b, str) else ref(b), ADD)


def use(*variables: Var) -> Eval:
    return Eval(call("use", *(ref(v) for v in variables)))


def loop(body: list[Stmt], *carried: Var) -> For:
    return For(Var("i"), call("tl.range", lit("n")), body, carried)


def test_rebinding_a_dead_name() -> None:
    first, second = Var("x"), Var("x")
    body: list[Stmt] = [
        Assign((first,), lit("1")),
        Assign((second,), plus(first, "1")),
        use(second),
    ]
    assert printed(body) == ["x = 1", "x += 1", "use(x)"]


def test_a_live_name_gets_a_suffix() -> None:
    first, second = Var("x"), Var("x")
    body: list[Stmt] = [
        Assign((first,), lit("1")),
        Assign((second,), plus(first, "1")),
        use(first, second),
    ]
    assert printed(body) == ["x = 1", "x_1 = x + 1", "use(x, x_1)"]


def test_carried_values_share_one_name() -> None:
    init, acc, after = Var("acc"), Var("acc"), Var("acc")
    inner: list[Stmt] = [Assign((after,), plus(acc, "1")), Copy([(acc, ref(after))])]
    body: list[Stmt] = [
        Assign((init,), lit("0")),
        Copy([(acc, ref(init))]),
        loop(inner, acc),
        use(acc),
    ]
    assert printed(body) == ["acc = 0", "for i in tl.range(n):", "    acc += 1", "use(acc)"]


def test_an_initial_value_used_later_is_copied() -> None:
    init, acc, after = Var("x"), Var("acc"), Var("acc")
    inner: list[Stmt] = [Assign((after,), plus(acc, "1")), Copy([(acc, ref(after))])]
    body: list[Stmt] = [
        Assign((init,), lit("0")),
        Copy([(acc, ref(init))]),
        loop(inner, acc),
        use(acc, init),
    ]
    assert printed(body)[:2] == ["x = 0", "acc = x"]


def test_values_swapped_by_a_loop() -> None:
    a, b = Var("a"), Var("b")
    inner: list[Stmt] = [use(a, b), Copy([(a, ref(b)), (b, ref(a))])]
    body: list[Stmt] = [
        Copy([(a, lit("0")), (b, lit("1"))]),
        loop(inner, a, b),
        use(a, b),
    ]
    assert printed(body)[-2:] == ["    a, b = b, a", "use(a, b)"]


def test_a_name_from_before_the_loop_is_not_rebound_inside() -> None:
    """Triton would carry it through the loop, whose type may differ."""
    before, inside = Var("x"), Var("x")
    body: list[Stmt] = [
        Assign((before,), lit("0")),
        use(before),
        loop([Assign((inside,), call("tl.zeros", lit("[4]"))), use(inside)]),
    ]
    assert "x_1 = tl.zeros([4])" in printed(body)[-2]


def test_sibling_loops_reuse_names() -> None:
    first, second = Var("x"), Var("x")
    body: list[Stmt] = [
        loop([Assign((first,), lit("1")), use(first)]),
        loop([Assign((second,), lit("2")), use(second)]),
    ]
    assert printed(body)[1] == "    x = 1"
    assert printed(body)[4] == "    x = 2"


def test_a_branch_that_changes_nothing_disappears() -> None:
    before, result, changed = Var("x"), Var("x"), Var("x")
    then: list[Stmt] = [Assign((changed,), plus(before, "1")), Copy([(result, ref(changed))])]
    orelse: list[Stmt] = [Copy([(result, ref(before))])]
    body: list[Stmt] = [
        Assign((before,), lit("0")),
        If(ref(Var("flag", name="flag")), then, orelse, (result,)),
        use(result),
    ]
    assert printed(body) == ["x = 0", "if flag:", "    x += 1", "use(x)"]
