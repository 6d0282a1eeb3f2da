"""Signatures: stated in four places, inferred from the body where they are not."""

from __future__ import annotations

from tests.frontend.lower import kernels, lower

ROW = """
@helion.kernel
def f(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    m, n = x.size()
    out = torch.empty_like(x)
    for tile in hl.tile(m):
        out[tile, :] = x[tile, :] * w[:]
    return out
"""


def test_ranks_and_equal_dimensions_come_from_the_body() -> None:
    assert kernels(ROW)[0].signature == "x=f32[x_0,x_1], w=f32[x_1]"


def test_what_was_assumed_is_said_with_the_remedy() -> None:
    notes = [d for d in lower(ROW).diagnostics if d.severity == "note"]
    assert [n.code for n in notes] == ["KT0208"]
    assert "--arg 'w=f32[x_1]'" in notes[0].remedy


def test_arg_wins_over_annotation_and_annotation_over_inference() -> None:
    source = ROW.replace("x: torch.Tensor", 'x: Float16[torch.Tensor, "M N"]')
    assert kernels(source)[0].signature == "x=f16[M,N], w=f32[N]"
    stated = kernels(source, args={"x": "bf16[A,B]"})[0].signature
    assert stated == "x=bf16[A,B], w=f32[B]"


def test_an_index_tensor_is_an_integer() -> None:
    source = """
    @helion.kernel
    def f(x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        out = torch.empty([rows.size(0)], dtype=x.dtype, device=x.device)
        for tile in hl.tile(rows.size(0)):
            out[tile] = x[rows[tile] * 2]
        return out
    """
    assert "rows=i64[rows_0]" in kernels(source)[0].signature


def test_asserted_dtypes_and_shapes_are_facts() -> None:
    source = """
    @helion.kernel
    def f(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        assert x.dtype in (torch.bfloat16, torch.float16)
        b, n = x.shape
        assert y.shape == (b, n, 4)
        assert n % 16 == 0
        out = torch.empty_like(x)
        for tile in hl.tile([b, n]):
            out[tile] = x[tile]
        return out
    """
    kernel = kernels(source)[0]
    assert kernel.signature == "x=bf16[x_0,x_1], y=f32[x_0,x_1,4]"
    assert {s.name: n for s, n in kernel.multiple_of.items()} == {"x_1": 16}


def test_optional_tensors_and_flags_give_variants() -> None:
    source = """
    @helion.kernel
    def f(x: torch.Tensor, bias: torch.Tensor | None = None, relu: hl.constexpr = False):
        for tile in hl.tile(x.size(0)):
            v = x[tile]
            if bias is not None:
                v = v + bias[tile]
            if relu:
                v = torch.relu(v)
            x[tile] = v
    """
    values = [
        (len(k.tensors), next(p.value for p in k.params if p.name == "relu"))
        for k in kernels(source)
    ]
    assert sorted(values) == [(1, False), (1, True), (2, False), (2, True)]


def test_a_variant_that_does_not_lower_is_left_out_with_a_note() -> None:
    source = """
    @helion.kernel
    def f(x: torch.Tensor, skip: torch.Tensor | None = None):
        for tile in hl.tile(x.size(0)):
            if skip is not None:
                continue
            x[tile] = 0.0
    """
    result = lower(source)
    assert len(result.kernels) == 1
    assert "KT0223" in [d.code for d in result.diagnostics if d.severity == "note"]


def test_layouts_decide_the_unit_stride() -> None:
    strides = [
        [str(s) for s in kernels(ROW, args={"x": spec})[0].tensors[0].strides]
        for spec in ("f32[M,N]", "f32[M,N]{0,1}")
    ]
    assert strides == [["x_stride_0", "1"], ["1", "x_stride_1"]]


def test_allocations_have_the_strides_of_their_shape() -> None:
    out = next(t for t in kernels(ROW, args={"x": "f32[M,N]"})[0].tensors if t.name == "out")
    assert [str(s) for s in out.strides] == ["N", "1"]


def test_factories_take_set_values() -> None:
    source = """
    def make(block):
        @helion.kernel
        def f(x: torch.Tensor):
            for tile in hl.tile(x.size(0), block_size=block):
                x[tile] = 0.0
        return f
    """
    (block,) = kernels(source, sets={"block": "64"})[0].blocks
    assert str(block.fixed) == "64"


def test_call_forms_are_kernels() -> None:
    source = """
    def body(x: torch.Tensor):
        for tile in hl.tile(x.size(0)):
            x[tile] = 0.0

    plain = helion.kernel(body)
    tuned = helion.kernel(config=helion.Config(block_sizes=[64], num_warps=2))(body)
    """
    found = kernels(source)
    assert [(k.name, k.config) for k in found] == [
        ("plain", {}),
        ("tuned", {"block_sizes": [64], "num_warps": 2}),
    ]


def test_an_asserted_ndim_is_a_fact() -> None:
    source = """
    @helion.kernel
    def f(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        assert w.ndim == 1 and w.shape[0] == x.size(1)
        assert x.dim() == 2
        out = torch.empty_like(x)
        for tile in hl.tile(x.size()):
            out[tile] = x[tile]
        return out
    """
    assert kernels(source)[0].signature == "x=f32[x_0,x_1], w=f32[x_1]"


def test_a_views_rank_corrects_its_parameters() -> None:
    source = """
    @helion.kernel
    def f(scale: torch.Tensor, m: int) -> torch.Tensor:
        n = scale.size(0)
        wide = scale.unsqueeze(-1).expand(n, m)
        rows = scale.unsqueeze(0)
        out = torch.empty_like(rows)
        for tile_n, tile_m in hl.tile([n, m]):
            out[0, tile_n] = wide[tile_n, tile_m].sum(-1) + rows[0, tile_n]
        return out
    """
    assert kernels(source)[0].signature == "scale=f32[scale_0]"
