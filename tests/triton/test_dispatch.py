"""One function for several signatures: what it asks, and what it refuses."""

from __future__ import annotations

from tests.frontend.lower import lower
from tests.triton.generate import functions, module
from transpile.ir import ir

SCALE = """
@helion.kernel()
def scale(x, bias=None, negate: hl.constexpr = False):
    out = torch.empty_like(x)
    for tile in hl.tile(x.size(0)):
        value = x[tile] * 2.0
        if bias is not None:
            value = value + bias[tile]
        if negate:
            value = -value
        out[tile] = value
    return out
"""


def signatures(source: str, *given: dict[str, str]) -> list[ir.Kernel]:
    """The source's kernel for each signature, through one call each of the frontend."""
    found = []
    for one in given:
        specs = {k: v for k, v in one.items() if v not in ("True", "False", "None")}
        values = {k: v for k, v in one.items() if k not in specs}
        result = lower(source, args=specs, sets=values)
        assert not [d for d in result.diagnostics if d.severity == "error"], result.diagnostics
        found += result.kernels[:1]
    return found


def host(source: str, *given: dict[str, str]) -> str:
    kernels = signatures(source, *given)
    return functions(module(*kernels))[kernels[0].name]


def test_by_dtype() -> None:
    text = host(SCALE, {"x": "f16[N]", "bias": "None"}, {"x": "f32[N]", "bias": "None"})
    assert "    if not (bias is None and not negate):\n        raise kt.no_signature(" in text
    assert "    if x.dtype == torch.float16:\n        _scale_f16_launch(" in text
    assert "    elif x.dtype == torch.float32:\n        _scale_f32_launch(" in text
    assert "    else:\n        raise kt.no_signature(" in text


def test_by_none() -> None:
    text = host(SCALE, {"x": "f32[N]", "bias": "None"}, {"x": "f32[N]", "bias": "f32[N]"})
    assert "if bias is None:\n" in text
    assert "else:\n" in text
    assert "bias.dtype" not in text


def test_by_compile_time_value() -> None:
    text = host(
        SCALE,
        {"x": "f32[N]", "bias": "None", "negate": "True"},
        {"x": "f32[N]", "bias": "None", "negate": "False"},
    )
    assert "    if negate:\n" in text
    assert "    else:\n" in text


def test_a_single_signature_refuses_other_values() -> None:
    text = host(SCALE, {"x": "f32[N]", "bias": "f32[N]", "negate": "True"})
    assert "    if not negate:\n        raise kt.no_signature(" in text


def test_by_rank_and_layout() -> None:
    source = """
    @helion.kernel()
    def twice(x):
        out = torch.empty_like(x)
        for tile in hl.tile(x.size()):
            out[tile] = x[tile] * 2.0
        return out
    """
    text = host(source, {"x": "f32[N]"}, {"x": "f32[M,N]"}, {"x": "f32[M,N]{0,1}"})
    assert "if x.dim() == 1:" in text
    assert "x.stride(1) == 1" in text
    assert "x.stride(0) == 1" in text
