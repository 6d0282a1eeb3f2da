"""Without a stated signature every variant is built that the source decides between."""

from __future__ import annotations

from tests.frontend.lower import kernels, lower

BIAS = """
@helion.kernel
def f(x: torch.Tensor, bias: torch.Tensor | None{default}) -> torch.Tensor:
    m, n = x.size()
    out = torch.empty_like(x)
    for tile in hl.tile(m):
        y = x[tile, :]
        if bias is not None:
            y = y + bias[:]
        out[tile, :] = y
    return out
"""

GATE = """
@helion.kernel
def f(
    x: torch.Tensor,
    scale: torch.Tensor | None = None,
    low: float | None = None,
    gate: hl.constexpr = False,
    clip: hl.constexpr = True,
) -> torch.Tensor:
    out = torch.empty_like(x)
    for tile in hl.tile(x.size(0)):
        y = x[tile]
        if gate:
            y = y * scale[tile]
            if clip:
                y = torch.clamp(y, min=low)
        out[tile] = y
    return out
"""


def signatures(source: str) -> list[str]:
    return [k.signature for k in kernels(source)]


def test_an_optional_tensor_is_built_absent_and_given() -> None:
    absent, given = "x=f32[x_0,x_1], bias=None", "x=f32[x_0,x_1], bias=f32[x_1]"
    assert signatures(BIAS.format(default=" = None")) == [absent, given]
    assert signatures(BIAS.format(default="")) == [given, absent]


def test_only_what_a_branch_looks_at_is_varied() -> None:
    assert signatures(GATE) == [
        "x=f32[x_0], gate=False",
        "x=f32[x_0], scale=f32[scale_0], low=None, gate=True, clip=True",
        "x=f32[x_0], scale=f32[scale_0], low=f32, gate=True, clip=True",
        "x=f32[x_0], scale=f32[scale_0], gate=True, clip=False",
    ]


def test_what_no_branch_looks_at_may_be_anything() -> None:
    plain = kernels(GATE)[0]
    assert {p.name: p.kind for p in plain.params}["scale"] == "other"


def test_a_stated_signature_is_complete() -> None:
    built = kernels(BIAS.format(default=" = None"), args={"x": "f16[M,N]"})
    assert [k.signature for k in built] == ["x=f16[M,N], bias=None"]


def test_a_default_that_needs_the_absent_argument_is_no_error() -> None:
    source = """
    @helion.kernel
    def f(x: torch.Tensor, w: torch.Tensor | None = None) -> torch.Tensor:
        out = torch.empty_like(x)
        for tile in hl.tile(x.size(0)):
            out[tile] = x[tile] * w[tile]
        return out
    """
    assert signatures(source) == ["x=f32[x_0], w=f32[w_0]"]


def test_a_flag_whose_other_value_does_not_lower_is_noted() -> None:
    source = """
    @helion.kernel
    def f(x: torch.Tensor, flag: hl.constexpr = False) -> torch.Tensor:
        out = torch.empty_like(x)
        for tile in hl.tile(x.size(0)):
            y = x[tile]
            if flag:
                y = torch.linalg.norm(y)
            out[tile] = y
        return out
    """
    result = lower(source)
    assert [k.signature for k in result.kernels] == ["x=f32[x_0], flag=False"]
    notes = [d for d in result.diagnostics if d.code == "KT0223"]
    assert len(notes) == 1
    assert "flag=True" in notes[0].message


def test_a_broken_default_is_an_error_whatever_the_variants() -> None:
    source = """
    @helion.kernel
    def f(x: torch.Tensor, flag: hl.constexpr = False) -> torch.Tensor:
        out = torch.empty_like(x)
        for tile in hl.tile(x.size(0)):
            y = x[tile]
            if not flag:
                y = torch.linalg.norm(y)
            out[tile] = y
        return out
    """
    assert [d.code for d in lower(source).diagnostics if d.severity == "error"] == ["KT0418"]


def test_what_is_compared_with_positions_is_an_integer() -> None:
    source = """
    @helion.kernel
    def f(x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(x)
        for tile_b, tile_n in hl.tile(x.size()):
            inside = tile_n.index[None, :] < lengths[tile_b][:, None]
            out[tile_b, tile_n] = torch.where(inside, x[tile_b, tile_n], 0.0)
        return out
    """
    assert "lengths=i64[lengths_0]" in signatures(source)[0]


def test_a_host_number_of_two_branches_reaches_the_device() -> None:
    source = """
    @helion.kernel
    def f(x: torch.Tensor, halve: bool = False) -> torch.Tensor:
        if halve:
            groups = x.size(0) // 2
        else:
            groups = 1
        out = torch.empty_like(x)
        for tile in hl.tile(x.size(0)):
            out[tile] = x[tile] * groups
        return out
    """
    assert len(kernels(source)) == 1


def test_a_tunable_is_no_config_key_of_the_schedule() -> None:
    source = """
    from helion.autotuner import PowerOfTwoFragment

    @helion.kernel
    def f(x: torch.Tensor) -> torch.Tensor:
        parts = hl.register_tunable("parts", PowerOfTwoFragment(1, 64))
        out = torch.empty([parts], dtype=x.dtype, device=x.device)
        for tile in hl.tile(parts):
            out[tile] = 1.0
        return out
    """
    kernel = kernels(source, config={"parts": 8, "num_warps": 2})[0]
    assert kernel.config == {"num_warps": 2}
    assert any("parts = 8" in getattr(item, "text", "") for item in kernel.host)


def test_helpers_of_the_dialects_own_tests_are_spelled_out() -> None:
    source = """
    from helion._testing import HALF_DTYPE

    @helion.kernel
    def f(x: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(x, dtype=HALF_DTYPE)
        for tile in hl.tile(x.size(0)):
            out[tile] = x[tile].to(HALF_DTYPE)
        return out
    """
    kernel = kernels(source)[0]
    assert "HALF_DTYPE = torch.float16" in kernel.prelude
    assert {t.name: t.dtype.name for t in kernel.tensors} == {"x": "f32", "out": "f16"}
