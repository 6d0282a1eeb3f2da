"""What the generated kernels look like: one source, the text expected."""

from __future__ import annotations

import textwrap

import pytest

from tests.triton.generate import body, build, functions

MATMUL = """
@helion.kernel()
def matmul(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    m, k = x.size()
    k2, n = y.size()
    assert k == k2
    out = torch.empty([m, n], dtype=x.dtype, device=x.device)
    for tile_m, tile_n in hl.tile([m, n]):
        acc = hl.zeros([tile_m, tile_n], dtype=torch.float32)
        for tile_k in hl.tile(k):
            acc = torch.addmm(acc, x[tile_m, tile_k], y[tile_k, tile_n])
        out[tile_m, tile_n] = acc.to(x.dtype)
    return out
"""
MATMUL_ARGS = {"x": "f16[M,K]", "y": "f16[K,N]"}

SOFTMAX = """
@helion.kernel()
def softmax(x: torch.Tensor) -> torch.Tensor:
    m, n = x.size()
    out = torch.empty_like(x)
    for tile_m in hl.tile(m):
        # The whole row at once.
        row = x[tile_m, :].to(torch.float32)
        numerator = torch.exp(row - torch.amax(row, dim=1, keepdim=True))
        denominator = torch.sum(numerator, dim=1, keepdim=True)
        out[tile_m, :] = (numerator / denominator).to(x.dtype)
    return out
"""


def check(text: str, name: str, expected: str) -> None:
    assert body(text, name) == textwrap.dedent(expected).strip("\n")


def test_elementwise() -> None:
    text = build(
        """
        @helion.kernel()
        def add(x, y):
            out = torch.empty_like(x)
            for tile in hl.tile(x.size(0)):
                out[tile] = x[tile] + y[tile]
            return out
        """,
        args={"x": "f32[N]", "y": "f32[N]"},
    )
    check(
        text,
        "_add_kernel",
        """
        pid = tl.program_id(0)
        offs = pid * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)
        mask = offs < n
        x_tile = tl.load(x + offs, mask=mask)
        y_tile = tl.load(y + offs, mask=mask)
        tl.store(out + offs, x_tile + y_tile, mask=mask)
        """,
    )


def test_softmax_masks_once() -> None:
    text = build(SOFTMAX, args={"x": "bf16[M,N]"})
    check(
        text,
        "_softmax_kernel",
        """
        pid_m = tl.program_id(0)
        offs_n = tl.arange(0, BLOCK_N)
        mask_n = offs_n < n
        # The whole row at once.
        row = tl.load(x + pid_m * x_stride_0 + offs_n, mask=mask_n, other=float("-inf")).to(tl.float32)
        numerator = tl.exp(row - tl.max(row, axis=0))
        denominator = tl.sum(numerator, axis=0)
        tl.store(out + pid_m * n + offs_n, numerator / denominator, mask=mask_n)
        """,
    )
    assert 'BLOCK_N=lambda args: triton.next_power_of_2(args["n"])' in text


def test_softmax_of_static_width_has_no_mask() -> None:
    text = build(SOFTMAX, args={"x": "f32[M,1024]"}, block_sizes=[1])
    check(
        text,
        "_softmax_kernel",
        """
        pid_m = tl.program_id(0)
        offs_n = tl.arange(0, 1024)
        # The whole row at once.
        row = tl.load(x + pid_m * x_stride_0 + offs_n)
        numerator = tl.exp(row - tl.max(row, axis=0))
        denominator = tl.sum(numerator, axis=0)
        tl.store(out + pid_m * 1024 + offs_n, numerator / denominator)
        """,
    )


def test_matmul_peels_the_ragged_block() -> None:
    text = build(MATMUL, args=MATMUL_ARGS, l2_groupings=[1])
    check(
        text,
        "_matmul_kernel",
        """
        pid = tl.program_id(0)
        num_pid_m = tl.cdiv(m, BLOCK_M)
        pid_m = pid % num_pid_m
        pid_n = pid // num_pid_m
        offs_m = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
        mask_m = offs_m < m
        offs_n = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
        mask_n = offs_n < n
        acc = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
        whole_k = (k // BLOCK_K) * BLOCK_K
        for start_k in tl.range(0, whole_k, BLOCK_K):
            offs_k = start_k + tl.arange(0, BLOCK_K)
            x_tile = tl.load(
                x + offs_m[:, None] * x_stride_0 + offs_k[None, :],
                mask=mask_m[:, None], other=0.0,
            )
            y_tile = tl.load(
                y + offs_k[:, None] * y_stride_0 + offs_n[None, :],
                mask=mask_n[None, :], other=0.0,
            )
            acc = tl.dot(x_tile, y_tile, acc)
        # Only the last block along k can be ragged.
        if whole_k < k:
            offs_k = whole_k + tl.arange(0, BLOCK_K)
            mask_k = offs_k < k
            x_tile = tl.load(
                x + offs_m[:, None] * x_stride_0 + offs_k[None, :],
                mask=mask_m[:, None] & mask_k[None, :],
                other=0.0,
            )
            y_tile = tl.load(
                y + offs_k[:, None] * y_stride_0 + offs_n[None, :],
                mask=mask_k[:, None] & mask_n[None, :],
                other=0.0,
            )
            acc = tl.dot(x_tile, y_tile, acc)
        tl.store(
            out + offs_m[:, None] * n + offs_n[None, :],
            acc,
            mask=mask_m[:, None] & mask_n[None, :],
        )
        """,
    )


def test_matmul_of_static_multiples_has_no_masks() -> None:
    args = {"x": "f16[512,256]", "y": "f16[256,512]"}
    text = build(MATMUL, args=args, block_sizes=[128, 128, 64])
    check(
        text,
        "_matmul_kernel",
        """
        pid = tl.program_id(0)
        num_pid_m = tl.cdiv(512, BLOCK_M)
        num_pid_n = tl.cdiv(512, BLOCK_N)
        num_pid_in_group = GROUP_M * num_pid_n
        first_pid_m = (pid // num_pid_in_group) * GROUP_M
        group_size_m = min(num_pid_m - first_pid_m, GROUP_M)
        pid_m = first_pid_m + (pid % num_pid_in_group) % group_size_m
        pid_n = (pid % num_pid_in_group) // group_size_m
        offs_m = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
        offs_n = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
        acc = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
        for start_k in tl.range(0, 256, BLOCK_K):
            offs_k = start_k + tl.arange(0, BLOCK_K)
            x_tile = tl.load(x + offs_m[:, None] * x_stride_0 + offs_k[None, :])
            y_tile = tl.load(y + offs_k[:, None] * y_stride_0 + offs_n[None, :])
            acc = tl.dot(x_tile, y_tile, acc)
        tl.store(out + offs_m[:, None] * 512 + offs_n[None, :], acc)
        """,
    )


def test_online_softmax_keeps_the_names_of_carried_values() -> None:
    text = build(
        """
        @helion.kernel()
        def row_sums(x):
            m, n = x.size()
            out = torch.empty([m], dtype=torch.float32, device=x.device)
            for tile_m in hl.tile(m):
                m_i = hl.full([tile_m], float("-inf"), dtype=torch.float32)
                l_i = hl.zeros([tile_m], dtype=torch.float32)
                for tile_n in hl.tile(n):
                    values = x[tile_m, tile_n]
                    m_ij = torch.maximum(m_i, torch.amax(values, dim=1))
                    l_i = l_i * torch.exp(m_i - m_ij)
                    l_i = l_i + torch.exp(values - m_ij[:, None]).sum(dim=1)
                    m_i = m_ij
                out[tile_m] = l_i
            return out
        """,
        args={"x": "f32[M,N]"},
        block_sizes=[4, 64],
    )
    check(
        text,
        "_row_sums_kernel",
        """
        pid_m = tl.program_id(0)
        offs_m = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
        mask_m = offs_m < m
        m_i = tl.full([BLOCK_M], float("-inf"), dtype=tl.float32)
        l_i = tl.zeros([BLOCK_M], dtype=tl.float32)
        for start_n in tl.range(0, n, BLOCK_N):
            offs_n = start_n + tl.arange(0, BLOCK_N)
            values = tl.load(
                x + offs_m[:, None] * x_stride_0 + offs_n[None, :],
                mask=mask_m[:, None] & (offs_n[None, :] < n),
                other=float("-inf"),
            )
            m_ij = tl.maximum(m_i, tl.max(values, axis=1), propagate_nan=tl.PropagateNan.ALL)
            l_i *= tl.exp(m_i - m_ij)
            l_i += tl.sum(tl.exp(values - m_ij[:, None]), axis=1)
            m_i = m_ij
        tl.store(out + offs_m, l_i, mask=mask_m)
        """,
    )


def test_branches_and_while() -> None:
    text = build(
        """
        @helion.kernel()
        def power(x, exponent: int):
            out = torch.empty_like(x)
            for tile in hl.tile(x.size(0)):
                base = x[tile]
                power = hl.full([tile], 1.0, dtype=torch.float32)
                remaining = exponent
                while remaining > 0:
                    if remaining % 2 == 1:
                        power = power * base
                    base = base * base
                    remaining = remaining >> 1
                out[tile] = power
            return out
        """,
        args={"x": "f32[N]", "exponent": "i32"},
    )
    lines = body(text, "_power_kernel").split("\n")
    start = lines.index("while remaining > 0:")
    assert lines[start + 2 : start + 5] == [
        "        power *= base",
        "    base *= base",
        "    remaining >>= 1",
    ]


def test_while_with_a_condition_of_several_statements() -> None:
    text = build(
        """
        def norm(row):
            square = row * row
            total = torch.sum(square, dim=0)
            return total + total * 0.5

        @helion.kernel()
        def walk(x, limit: float):
            out = torch.empty_like(x)
            for tile in hl.tile(x.size(0)):
                row = x[tile]
                while norm(row) > limit:
                    row = row * 0.5
                out[tile] = row
            return out
        """,
        args={"x": "f32[N]", "limit": "f32"},
    )
    code = body(text, "_walk_kernel")
    assert code.count("go_on = ") == 2
    assert "while go_on:\n" in code


def test_names_of_triton_and_python_are_no_trouble() -> None:
    text = build(
        """
        @helion.kernel()
        def kernel(tl, triton):
            kt = torch.empty_like(tl)
            for tile in hl.tile(tl.size(0)):
                min = tl[tile] + triton[tile]
                range = min * min
                kt[tile] = range
            return kt
        """,
        args={"tl": "f32[N]", "triton": "f32[N]"},
    )
    check(
        text,
        "_kernel_kernel",
        """
        pid = tl.program_id(0)
        offs = pid * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)
        mask = offs < n
        min_ = tl.load(tl_ + offs, mask=mask) + tl.load(triton_ + offs, mask=mask)
        range_ = min_ * min_
        tl.store(kt_ + offs, range_, mask=mask)
        """,
    )
    compile(text, "kernel_triton.py", "exec")


@pytest.mark.parametrize(
    ("expression", "printed"),
    [
        ("x[tile] - (y[tile] - 1.0)", "x_tile - (y_tile - 1.0)"),
        ("(x[tile] - y[tile]) - 1.0", "x_tile - y_tile - 1.0"),
        ("x[tile] / (y[tile] * 2.0)", "x_tile / (y_tile * 2.0)"),
        ("-x[tile] * y[tile]", "-x_tile * y_tile"),
        ("-(x[tile] * y[tile])", "-(x_tile * y_tile)"),
        ("torch.sigmoid(x[tile]) * y[tile]", "tl.sigmoid(x_tile) * y_tile"),
        ("torch.where(x[tile] > y[tile], 1.0, 0.0)", "tl.where(x_tile > y_tile, 1.0, 0.0)"),
    ],
)
def test_expressions_have_the_parentheses_they_need(expression: str, printed: str) -> None:
    text = build(
        f"""
        @helion.kernel()
        def f(x, y):
            out = torch.empty_like(x)
            for tile in hl.tile(x.size(0)):
                value = {expression}
                out[tile] = value
            return out
        """,
        args={"x": "f32[N]", "y": "f32[N]"},
    )
    code = body(text, "_f_kernel")
    for name in ("x", "y"):
        code = code.replace(f"tl.load({name} + offs, mask=mask)", f"{name}_tile")
    assert f"value = {printed}\n" in code


def test_integer_division_floors() -> None:
    source = """
        @helion.kernel()
        def f(x):
            out = torch.empty_like(x)
            for tile in hl.tile(x.size(0)):
                out[tile] = (x[tile] // 3) + tile.index // 3
            return out
        """
    text = build(source, args={"x": "i32[N]"})
    assert "_floor_div(tl.load(x + offs, mask=mask), 3) + offs // 3" in text
    assert "def _floor_div(a, b):" in text
    assert "_floor_div" not in build(source, args={"x": "u8[N]"})


def test_line_lengths() -> None:
    text = build(MATMUL, args=MATMUL_ARGS, indexing="tensor_descriptor")
    assert max(len(line) for line in text.split("\n")[1:]) <= 100


def test_host_function_repeats_the_source() -> None:
    host = functions(build(MATMUL, args=MATMUL_ARGS))["matmul"]
    assert host == textwrap.dedent("""\
        def matmul(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            m, k = x.size()
            k2, n = y.size()
            assert k == k2
            out = torch.empty([m, n], dtype=x.dtype, device=x.device)
            _matmul_launch(
                (triton.cdiv(m, 128) * triton.cdiv(n, 256),),
                x, y, out, m, n, k, x.stride(0), y.stride(0),
            )
            return out""")


def test_text_is_deterministic() -> None:
    assert build(MATMUL, args=MATMUL_ARGS) == build(MATMUL, args=MATMUL_ARGS)
