"""Values that nobody reads."""

from __future__ import annotations

from transpile.ir.dtypes import F32, I32
from transpile.ir.ir import Tensor
from transpile.ir.sizes import ONE, Size, Sym
from transpile.thread.dead import remove_dead
from transpile.thread.ir import (
    Apply,
    Assign,
    Body,
    Const,
    Element,
    Id,
    If,
    LaneLoop,
    Let,
    Load,
    Store,
    Var,
    integer,
)

N = Size.of(Sym("N", "dim"))
X = Tensor("x", F32, (N,), (ONE,), "x")
LOADED = Load(X, Id("thread"))


def test_what_only_dead_values_read_is_dead_too() -> None:
    a, b, c = (Var(name, F32) for name in "abc")
    keep = Store(X, Id("thread"), a)
    body: Body = [Let(a, LOADED), Let(b, a), Let(c, Apply("add", (b, b), F32)), keep]
    remove_dead(body)
    assert [type(s) for s in body] == [Let, Store]


def test_loops_and_branches_go_with_their_contents() -> None:
    array, i = Var("array", F32, (4,)), Var("i", I32)
    element = Element(array, (i,))
    body: Body = [
        Let(array), LaneLoop(i, 4, [Assign(element, Const(0.0, F32))]),
        If(Apply("lt", (Id("lane"), integer(3)), I32), [Let(Var("t", F32), LOADED)]),
    ]  # fmt: skip
    remove_dead(body)
    assert body == []


def test_what_is_read_stays() -> None:
    array, i, total = Var("array", F32, (4,)), Var("i", I32), Var("total", F32)
    element = Element(array, (i,))
    body: Body = [
        Let(array, Const(0.0, F32)), Let(total, Const(0.0, F32)),
        LaneLoop(i, 4, [Assign(element, LOADED), Assign(total, Apply("add", (total, element), F32))]),
        Store(X, integer(0), total),
    ]  # fmt: skip
    remove_dead(body)
    assert len(body) == 4
    assert isinstance(body[2], LaneLoop) and len(body[2].body) == 2
