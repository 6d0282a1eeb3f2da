"""Every helion.Config key that means something for Triton shows in the code; bad ones are refused."""

from __future__ import annotations

from typing import Any

import pytest

from tests.triton.generate import build, functions
from tests.triton.test_kernels import MATMUL, MATMUL_ARGS, SOFTMAX
from transpile.ir.diagnostics import KtError

ADD_2D = """
@helion.kernel()
def add(x, y):
    m, n = x.size()
    out = torch.empty_like(x)
    for tile_m, tile_n in hl.tile([m, n]):
        out[tile_m, tile_n] = x[tile_m, tile_n] + y[tile_n]
    return out
"""
ADD_ARGS = {"x": "f32[M,N]", "y": "f32[N]"}

BLOCKS = {"block_sizes": [64, 64, 32]}


def matmul(**config: Any) -> str:
    return build(MATMUL, args=MATMUL_ARGS, **{**BLOCKS, **config})


@pytest.mark.parametrize(
    ("config", "printed"),
    [
        ({}, "BLOCK_M=64, BLOCK_N=64, BLOCK_K=32,"),
        ({"num_warps": 2}, "num_warps=2"),
        ({"num_stages": 5}, "num_stages=5"),
        ({"num_ctas": 2}, "num_ctas=2"),
        ({"maxnreg": 128}, "maxnreg=128"),
        ({"_triton_config_minRegAutoWS": 24}, "minRegAutoWS=24"),
        ({"l2_groupings": [4]}, "GROUP_M=4"),
        ({"l2_grouping": 4}, "num_pid_in_group = GROUP_M * num_pid_n"),
        ({"l2_groupings": [1], "loop_orders": [[1, 0]]}, "pid_n = pid % num_pid_n"),
        ({"l2_groupings": [1], "loop_orders": [[0, 1]]}, "pid_m = pid % num_pid_m"),
        ({"pid_type": "xyz"}, "pid_n = tl.program_id(1)"),
        ({"pid_type": "xyz"}, "(triton.cdiv(m, 64), triton.cdiv(n, 64))"),
        (
            {"pid_type": "persistent_interleaved"},
            "for tile_id in tl.range(tl.program_id(0), num_tiles, tl.num_programs(0)):",
        ),
        (
            {"pid_type": "persistent_interleaved", "num_sm_multiplier": 2},
            "(min(kt.num_sms(x.device) * 2, triton.cdiv(m, 64) * triton.cdiv(n, 64)),)",
        ),
        (
            {"pid_type": "persistent_blocked"},
            "for tile_id in tl.range(first_tile, min(first_tile + tiles_per_program, num_tiles)):",
        ),
        ({"range_num_stages": [0, 4]}, "tl.range(0, whole_k, BLOCK_K, num_stages=4)"),
        ({"range_unroll_factors": [0, 2]}, "loop_unroll_factor=2"),
        ({"range_multi_buffers": [None, False]}, "disallow_acc_multi_buffer=True"),
        ({"range_flattens": [None, True]}, "flatten=True"),
        ({"_triton_range_id_hint": 1, "_triton_range_value_hint": 7}, "BLOCK_K, hint=7)"),
        ({"load_eviction_policies": ["", "last"]}, 'other=0.0, eviction_policy="evict_last"'),
        ({"load_cache_modifiers": [".cg"]}, 'cache_modifier=".cg"'),
        ({"store_cache_modifiers": [".cs"]}, 'cache_modifier=".cs"'),
        ({"indexing": "block_ptr"}, "y + offs_k[:, None] * y_stride_0 + offs_n[None, :]"),
        ({"indexing": "tensor_descriptor"}, "x_tile = x_desc.load([pid_m * BLOCK_M, start_k])"),
        ({"indexing": "tensor_descriptor"}, "out_desc.store([pid_m * BLOCK_M, pid_n * BLOCK_N], acc)"),
        ({"indexing": "tensor_descriptor"}, "if kt.tma_ok(x, y, out):"),
        ({"indexing": "tensor_descriptor"}, "kt.descriptor(x, (64, 32))"),
        ({"indexing": "tensor_descriptor"}, '"x_desc": "tma f16[M,K]"'),
        (
            {"indexing": ["tensor_descriptor", "pointer", "pointer"]},
            "if kt.tma_ok(x):",
        ),
        ({"indexing": "tensor_descriptor", "epilogue_subtile": 2}, "left, right = tl.split("),
        ({"index_dtype": "int64"}, "offs_m = pid_m.to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)"),
        ({"index_dtype": "int64"}, "index64=True"),
    ],
)  # fmt: skip
def test_key_shows_in_the_code(config: dict[str, Any], printed: str) -> None:
    assert printed in matmul(**config)


def test_keys_of_other_targets_are_ignored() -> None:
    given = {"pallas_loop_type": "unroll", "num_threads": [0], "cute_vector_widths": [4]}
    assert functions(matmul(**given)) == functions(matmul())


def test_columns_major_operands_have_descriptors_too() -> None:
    args = {"x": "f16[M,K]", "y": "f16[K,N]{0,1}"}
    text = build(MATMUL, args=args, indexing="tensor_descriptor", **BLOCKS)
    code = functions(text)["_matmul_tma_kernel"]
    assert "y_tile = y_desc.load([pid_n * BLOCK_N, start_k])" in code
    assert "acc = tl.dot(x_tile, tl.trans(y_tile), acc)" in code
    assert "tl.assume(k > 0)" in code  # or ptxas serialises the products
    assert "kt.tma_ok(x, y.t(), out)" in text
    assert "kt.descriptor(y.t(), (64, 32))" in text


def test_static_ranges_need_static_bounds() -> None:
    args = {"x": "f16[M,64]", "y": "f16[64,N]"}
    text = build(MATMUL, args=args, static_ranges=[False, True], **BLOCKS)
    assert "in tl.static_range(0, 64, BLOCK_K):" in text
    assert refused(static_ranges=[False, True]) == ["KT0216"]


def test_flattened_loop() -> None:
    text = build(ADD_2D, args=ADD_ARGS, flatten_loops=[True], block_sizes=[4, 256])
    code = functions(text)["_add_kernel"]
    assert "mask = offs < m * n" in code
    assert "offs_n = offs % n" in code
    assert "offs_m = offs // n" in code
    assert "BLOCK_SIZE=1024" in text


def test_rolled_reduction() -> None:
    text = build(SOFTMAX, args={"x": "f32[M,N]"}, reduction_loops=[256], block_sizes=[1])
    assert functions(text)["_softmax_kernel"].count("for start_n in tl.range(0, n, BLOCK_N):") == 3
    assert "BLOCK_N=256" in text


def test_warp_specialisation_is_for_blackwell() -> None:
    from tests.frontend.lower import kernels
    from tests.triton.generate import SOURCE
    from transpile.emitters import EmitOptions
    from transpile.emitters.triton.emitter import emit

    config = {**BLOCKS, "range_warp_specializes": [None, True]}
    kernel = kernels(MATMUL, args=MATMUL_ARGS, config=config)[0]
    hopper = emit(SOURCE, [[kernel]], EmitOptions(arch="sm_90a"))
    assert "warp_specialize" not in functions(hopper.files["kernel_triton.py"])["_matmul_kernel"]
    assert [d.code for d in hopper.diagnostics] == ["KT0604"]
    blackwell = emit(SOURCE, [[kernel]], EmitOptions(arch="sm_100"))
    assert "warp_specialize=True" in blackwell.files["kernel_triton.py"]
    assert not blackwell.diagnostics


def refused(**config: Any) -> list[str]:
    with pytest.raises(KtError) as caught:
        matmul(**config)
    return [d.code for d in caught.value.diagnostics]


@pytest.mark.parametrize(
    ("config", "codes"),
    [
        ({"blok_sizes": [64]}, ["KT0210"]),
        ({"num_warps": 3}, ["KT0211"]),
        ({"num_warps": True}, ["KT0211"]),
        ({"num_stages": 0}, ["KT0211"]),
        ({"pid_type": "spiral"}, ["KT0211"]),
        ({"block_sizes": [64, 64]}, ["KT0212"]),
        ({"block_sizes": [64, 48, 32]}, ["KT0213"]),
        ({"block_sizes": [64, "64", 32]}, ["KT0213"]),
        ({"loop_orders": [[0, 0]]}, ["KT0214"]),
        ({"indexing": "magic"}, ["KT0211"]),
        ({"indexing": ["pointer", "magic"]}, ["KT0211"]),
        ({"load_eviction_policies": ["never"]}, ["KT0211"]),
        ({"range_num_stages": [-1]}, ["KT0211"]),
        ({"l2_groupings": [0]}, ["KT0211"]),
        ({"num_sm_multiplier": 0}, ["KT0211"]),
        ({"num_ctas": 3}, ["KT0211"]),
        ({"epilogue_subtile": 3}, ["KT0211"]),
        ({"num_warps": 3, "nonsense": 1}, ["KT0210", "KT0211"]),
    ],
)
def test_bad_configs_are_refused(config: dict[str, Any], codes: list[str]) -> None:
    assert refused(**config) == codes
