"""The other rewrites before a tile emitter: on random programs they change no result, and they
leave the kernel that they are given as it was."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from hypothesis import given, settings

from tests.ir import samples
from tests.passes.programs import Program, agree, programs
from transpile.ir.printer import format_kernel
from transpile.ir.verifier import verify
from transpile.passes.fills import lift_fills
from transpile.passes.masks import remove_masks
from transpile.passes.simplify import simplify
from transpile.passes.squeeze import squeeze


@settings(max_examples=60)
@given(programs())
def test_squeeze_and_lifted_fills(program: Program) -> None:
    before = format_kernel(program.kernel)
    exact = program.run()
    squeezed = squeeze(program.kernel, program.blocks)
    lifted = lift_fills(squeezed)
    final = simplify(remove_masks(lifted, program.blocks, pads_size_axes=True))
    for kernel in (squeezed, lifted, final):
        verify(kernel)
        assert agree(exact, program.run(kernel))
        assert agree(exact, program.run(kernel, pad_size_axes=True))
    assert format_kernel(program.kernel) == before


@pytest.mark.parametrize("make", [samples.softmax, samples.two_pass_softmax])
def test_lifting_copies(make: object) -> None:
    kernel = make()  # type: ignore[operator]
    before = format_kernel(kernel)
    lifted = lift_fills(kernel)
    verify(lifted)
    assert format_kernel(kernel) == before
    assert format_kernel(lifted) != before
