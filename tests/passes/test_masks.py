"""Masked values: the analysis against the interpreter with poisoned and padded lanes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytest.importorskip("torch")

from hypothesis import Phase, given, settings

from tests.passes.programs import Program, agree, programs
from transpile.ir import ir
from transpile.ir.interpreter import InterpreterError
from transpile.ir.ir import Kernel
from transpile.ir.verifier import verify
from transpile.ir.walk import map_block, map_phases, substitute
from transpile.passes import analysis
from transpile.passes.analysis import analyse
from transpile.passes.facts import Facts
from transpile.passes.masks import remove_masks


def check(program: Program) -> None:
    """Padding, poison and the removal of masks change nothing."""
    verify(program.kernel)
    exact = program.run()
    claims = analyse(program.kernel, program.blocks, pads_size_axes=True)
    assert agree(exact, program.run(poison=claims, pad_size_axes=True))
    for pads in (False, True):
        bare = remove_masks(program.kernel, program.blocks, pads)
        verify(bare)
        assert agree(exact, program.run(bare))
        claims = analyse(bare, program.blocks, pads)
        assert agree(exact, program.run(bare, poison=claims, pad_size_axes=pads))


@settings(max_examples=80)
@given(programs())
def test_removal_changes_nothing(program: Program) -> None:
    check(program)


# -- the property itself must be able to fail --------------------------------------------------


def _finds_fault(examples: int = 400) -> bool:
    """Whether the property fails for some program."""

    @settings(
        max_examples=examples, database=None, phases=[Phase.generate],
        report_multiple_bugs=False, derandomize=True,
    )  # fmt: skip
    @given(programs())
    def search(program: Program) -> None:
        check(program)

    try:
        search()
    except (AssertionError, InterpreterError):
        return True
    return False


def _ignores_masks(kernel: Kernel, blocks: object, pads_size_axes: bool) -> Kernel:
    """A wrong pass: drops every mask."""

    def body(phase: ir.Phase) -> ir.Block:
        replaced: dict[ir.Value, ir.Value] = {}

        def rewrite(op: ir.Op) -> ir.Op | None:
            if isinstance(op, ir.Mask):
                replaced[op.result] = op.value
                return None
            return op

        return substitute(map_block(phase.body, rewrite), replaced)

    return map_phases(kernel, body)


def _with(name: str, change: Callable[[Facts], Facts]) -> dict[type[ir.Op], object]:
    """The transfer table with one function's facts changed."""
    kind = getattr(ir, name)
    original = analysis.TRANSFER[kind]
    return {**analysis.TRANSFER, kind: lambda a, op: change(original(a, op))}  # type: ignore[arg-type]


_WRONG_FACTS = {
    "load claims 1": ("Load", lambda f: Facts(known=dict.fromkeys(f.known, 1.0))),
    "elementwise keeps 0": (
        "Elementwise", lambda f: Facts(known=dict.fromkeys(f.lanes, 0.0)),
    ),
    "mask claims 0": ("Mask", lambda f: Facts(known=dict.fromkeys(f.known, 0.0))),
    "reduce claims 0": ("Reduce", lambda f: Facts(known=dict.fromkeys(f.lanes, 0.0))),
    "dot claims 0": ("Dot", lambda f: Facts(known=dict.fromkeys(f.lanes, 0.0))),
    "permute mixes up axes": (
        "Permute", lambda f: Facts(known={(1 - d, t): c for (d, t), c in f.known.items()}),
    ),
    "cast keeps its number": ("Cast", lambda f: Facts(known=dict.fromkeys(f.lanes, 0.0))),
    "broadcasts are uniform": ("Full", lambda f: Facts(uniform=0.0)),
}  # fmt: skip


@pytest.mark.parametrize("fault", list(_WRONG_FACTS))
def test_a_wrong_fact_is_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analysis, "TRANSFER", _with(*_WRONG_FACTS[fault]))
    assert _finds_fault()


def test_a_wrong_removal_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.passes.test_masks.remove_masks", _ignores_masks)
    assert _finds_fault()


def test_a_wrong_range_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transpile.passes.ranges.Ranges._multiple", lambda *_: True)
    assert _finds_fault()


def test_a_wrong_fixpoint_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Carried values that keep the facts of their initial values."""
    monkeypatch.setattr(analysis, "join", lambda first, second: first)
    assert _finds_fault()
