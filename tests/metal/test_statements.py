"""Statements of the thread IR as Metal."""

from __future__ import annotations

import pytest

from tests.metal.kernels import TID, M, N, apply, body_of, number, printed, tensor
from transpile.ir import ir as tile
from transpile.ir.diagnostics import KtError
from transpile.ir.dtypes import BF16, F16, F32, I32, I64
from transpile.thread import ir

X = tensor("x", F32, N)
H = tensor("h", F16, N)
OUT = tensor("out", F32, N)
WHOLE = (
    "*(device float2*)(out + tid) = "
    "float2(acc[0].thread_elements()[0], acc[0].thread_elements()[1]);"
)
RELAXED = "memory_order_relaxed"
EIGHT = ir.FragmentShape(
    8, 8, 2, (ir.Part(2, 4, 16), ir.Part(4, 1, 2)),
    (ir.Part(2, 4, 8), ir.Part(2, 2, 1), ir.Part(2, 1)),
)  # fmt: skip


def scalar(name: str = "v", dtype: tile.DType = F32) -> ir.Var:
    return ir.Var(name, dtype)


def test_arrays_and_their_first_values() -> None:
    zeros, ones, vectors = (
        ir.Var("a", F32, (4,)),
        ir.Var("b", F32, (2, 3)),
        ir.Var("c", F16, (2,), 4),
    )
    assert body_of([ir.Let(zeros, number(0)), ir.Let(ones, number(1)), ir.Let(vectors)]) == [
        "float a[4] = {};",
        "float b[2][3];",
        "UNROLL for (short i = 0; i < 2; ++i) {",
        "  UNROLL for (short j = 0; j < 3; ++j) {",
        "    b[i][j] = 1.0f;",
        "  }",
        "}",
        "half4 c[2];",
    ]


def test_assignments_shorten() -> None:
    v, i = scalar(), scalar("i", I32)
    body = [
        ir.Let(v, number(0)), ir.Assign(v, apply("add", v, number(2))),
        ir.Assign(v, apply("sub", number(2), v)),
        ir.Let(i, ir.integer(0)), ir.Assign(i, apply("mul", i, ir.integer(3))),
    ]  # fmt: skip
    assert body_of(body) == [
        "float v = 0.0f;", "v += 2.0f;", "v = 2.0f - v;", "int i = 0;", "i *= 3;",
    ]  # fmt: skip


def test_loops_and_branches() -> None:
    k, j, v = scalar("k", I32), scalar("j", I32), scalar()
    body = [
        ir.Let(v, number(0)),
        ir.For(k, ir.integer(0), ir.Extent(N), ir.integer(32), [ir.Assign(v, number(1))]),
        ir.For(j, ir.integer(0), ir.Extent(N), ir.integer(1), []),
        ir.If(apply("lt", TID, ir.integer(3)), [ir.Assign(v, number(2))],
              [ir.If(apply("lt", TID, ir.integer(5)), [], [ir.Assign(v, number(3))])]),
        ir.While([], apply("lt", v, number(9)), [ir.Assign(v, apply("add", v, v))]),
    ]  # fmt: skip
    assert body_of(body) == [
        "float v = 0.0f;",
        "for (int k = 0; k < params.n; k += 32) {", "  v = 1.0f;", "}",
        "for (int j = 0; j < params.n; ++j) {", "}",
        "if (tid < 3) {", "  v = 2.0f;",
        "} else if (tid < 5) {",
        "} else {", "  v = 3.0f;", "}",
        "while (v < 9.0f) {", "  v += v;", "}",
    ]  # fmt: skip


def test_bounds_that_the_loop_changes_are_kept() -> None:
    k, end = scalar("k", I32), scalar("end", I32)
    loop = ir.For(k, ir.integer(0), end, ir.integer(1), [ir.Assign(end, ir.integer(2))])
    assert body_of([ir.Let(end, ir.integer(9)), loop]) == [
        "int end = 9;", "int k_end = end;", "for (int k = 0; k < k_end; ++k) {", "  end = 2;", "}",
    ]  # fmt: skip


def test_a_loop_over_components_is_vector_arithmetic() -> None:
    h, t, j = ir.Var("h", F16, (), 4), ir.Var("t", F16, (), 4), scalar("j", I32)
    wide = ir.Convert(ir.Element(h, (), j), F32)
    body = [
        ir.Let(h, ir.Load(H, ir.mul(TID, 4), 4)),
        ir.Let(t),
        ir.LaneLoop(j, 4, [
            ir.Assign(ir.Element(t, (), j), ir.Convert(apply("mul", apply("exp", wide), number(2)), F16))
        ]),
        ir.Store(OUT, TID, number(0)),
    ]  # fmt: skip
    assert body_of(body, H, OUT)[:2] == [
        "half4 h_tile = *(const device half4*)(h + tid * 4);",
        "half4 t = half4(precise::exp(float4(h_tile)) * 2.0f);",
    ]


def test_a_loop_over_components_that_sums_stays_a_loop() -> None:
    v, j, total = ir.Var("v", F32, (), 4), scalar("j", I32), scalar("total")
    body = [
        ir.Let(v, ir.Load(X, TID, 4)), ir.Let(total, number(0)),
        ir.LaneLoop(j, 4, [ir.Assign(total, apply("add", total, ir.Element(v, (), j)))]),
    ]  # fmt: skip
    assert body_of(body, X)[2:] == [
        "UNROLL for (short j = 0; j < 4; ++j) {", "  total += v[j];", "}",
    ]  # fmt: skip


def test_sums_follow_the_vectors_that_they_read() -> None:
    v, t, j = ir.Var("v", F32, (), 4), ir.Var("t", F32, (), 4), scalar("j", I32)
    total, square = scalar("total"), scalar("square")
    component = ir.Element(v, (), j)
    body = [
        ir.Let(v, ir.Load(X, TID, 4)), ir.Let(total, number(0)), ir.Let(t),
        ir.LaneLoop(j, 4, [
            ir.Let(square, apply("mul", component, component)),
            ir.Assign(total, apply("add", total, square)),
            ir.Assign(ir.Element(t, (), j), apply("add", square, square)),
        ]),
    ]  # fmt: skip
    assert body_of(body, X)[2:] == [
        "float4 square = v * v;", "float4 t = square + square;",
        "UNROLL for (short j = 0; j < 4; ++j) {", "  total += square[j];", "}",
    ]  # fmt: skip


def test_what_a_sum_reads_is_not_changed_before_it() -> None:
    v, j, total = ir.Var("v", F32, (), 4), scalar("j", I32), scalar("total")
    component = ir.Element(v, (), j)
    loop = ir.LaneLoop(j, 4, [
        ir.Assign(total, apply("add", total, component)),
        ir.Assign(component, apply("mul", component, number(2))),
    ])  # fmt: skip
    assert body_of([ir.Let(v, ir.Load(X, TID, 4)), ir.Let(total, number(0)), loop], X)[2:] == [
        "UNROLL for (short j = 0; j < 4; ++j) {", "  total += v[j];", "  v[j] *= 2.0f;", "}",
    ]  # fmt: skip


def test_another_component_keeps_the_loop() -> None:
    v, j = ir.Var("v", F32, (), 4), scalar("j", I32)
    shifted = apply("add", ir.Element(v, (), j), ir.Element(v, (), ir.integer(0)))
    body = [ir.Let(v, number(1)), ir.LaneLoop(j, 4, [ir.Assign(ir.Element(v, (), j), shifted)])]
    assert body_of(body)[1:] == ["UNROLL for (short j = 0; j < 4; ++j) {", "  v[j] += v.x;", "}"]


def test_stores() -> None:
    v = ir.Var("v", F32, (), 4)
    body = [
        ir.Let(v, ir.Load(X, TID, 4)),
        ir.Store(OUT, TID, v, guard=apply("lt", TID, ir.integer(3))),
        ir.Store(OUT, TID, v, aligned=False), ir.Store(OUT, TID, v, count=ir.integer(3)),
        ir.Store(OUT, ir.integer(0), number(1)),
    ]  # fmt: skip
    code = printed(body, X, OUT)
    assert [line.strip() for line in code.body[1:]] == [
        "if (tid < 3) {", "*(device float4*)(out + tid) = v;", "}",
        "store_any<4>(out + tid, v);", "store_aligned<4>(out + tid, v, 3);", "out[0] = 1.0f;",
    ]  # fmt: skip
    assert [(t.access, t.aligned) for t in code.tensors] == [("", True), ("out", True)]


def test_threadgroup_memory() -> None:
    a, b = ir.SharedBuffer("a", F16, (64, 16), pad=8), ir.SharedBuffer("b", F32, (8,), offset=3072)
    body = [
        ir.SharedStore(a, (TID, ir.integer(0)), ir.Const(0.0, F16)), ir.Barrier(),
        ir.SharedStore(b, (TID,), number(1), guard=apply("lt", TID, ir.integer(8))),
        ir.Let(ir.Var("v", F16, (), 4), ir.SharedLoad(a, (TID, ir.integer(4)), 4)),
        ir.Barrier("simdgroup", shared=True, device=True),
    ]  # fmt: skip
    assert body_of(body, shared=(a, b)) == [
        "alignas(16) threadgroup half a[64][24];",
        "threadgroup float b[8];",
        "a[tid][0] = 0.0h;",
        "threadgroup_barrier(mem_flags::mem_threadgroup);",
        "if (tid < 8) {", "  b[tid] = 1.0f;", "}",
        "half4 v = *(threadgroup half4*)&a[tid][4];",
        "simdgroup_barrier(mem_flags::mem_threadgroup | mem_flags::mem_device);",
    ]  # fmt: skip


def test_buffers_that_share_memory() -> None:
    a, b = ir.SharedBuffer("a", F16, (64, 16), pad=8), ir.SharedBuffer("b", F32, (8,), offset=512)
    assert body_of([ir.Barrier()], shared=(a, b))[:3] == [
        "alignas(16) threadgroup uchar memory[3072];",
        "threadgroup half (*a)[24] = (threadgroup half (*)[24])memory;",
        "threadgroup float* b = (threadgroup float*)(memory + 512);",
    ]


def test_matrices() -> None:
    acc = ir.Var("acc", F32, (2,), 2, EIGHT)
    a = ir.Var("a", F16, (), 2, EIGHT)
    tile_a = ir.SharedBuffer("a_tile", F16, (16, 16), pad=8)
    first = ir.Element(acc, (ir.integer(0),))
    body = [
        ir.Let(acc, number(0)), ir.Let(a),
        ir.FragmentLoad(ir.Element(a, ()), tile_a, (ir.integer(8), ir.integer(0)), ir.integer(24)),
        ir.FragmentLoad(
            ir.Element(a, ()), tile_a, (ir.integer(0), ir.integer(8)), ir.integer(24), transpose=True
        ),
        ir.Mma(first, ir.Element(a, ()), ir.Element(a, ()), first),
        ir.Store(OUT, TID, ir.Element(acc, (ir.integer(0),), ir.integer(1))),
        ir.Store(OUT, TID, first),
    ]  # fmt: skip
    assert body_of(body, OUT, shared=(tile_a,))[1:] == [
        "simdgroup_float8x8 acc[2];",
        "UNROLL for (short i = 0; i < 2; ++i) {",
        "  acc[i] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);",
        "}",
        "simdgroup_half8x8 a;",
        "simdgroup_load(a, &a_tile[8][0], 24);",
        "simdgroup_load(a, &a_tile[0][8], 24, ulong2(0, 0), true);",
        "simdgroup_multiply_accumulate(acc[0], a, a, acc[0]);",
        "out[tid] = acc[0].thread_elements()[1];",
        WHOLE,
    ]


@pytest.mark.parametrize(
    ("dtype", "kind", "expected"),
    [
        (F32, "add", f"atomic_fetch_add_explicit((device atomic_float*)(x + tid), 1.0f, {RELAXED});"),
        (I32, "max", f"atomic_fetch_max_explicit((device atomic_int*)(x + tid), 1, {RELAXED});"),
        (F32, "max", "atomic_max_float(x + tid, 1.0f);"),
        (F16, "add", "atomic_add_half(x, tid, 1.0h);"),
        (BF16, "add", "atomic_add_bfloat(x, tid, bfloat(1.0f));"),
    ],
)  # fmt: skip
def test_atomics(dtype: tile.DType, kind: str, expected: str) -> None:
    x = tensor("x", dtype, N)
    code = printed([ir.Atomic(kind, x, TID, ir.Const(1, dtype))], x)  # type: ignore[arg-type]
    assert code.body == [f"  {expected}"]
    assert code.tensors[0].access == "inout"
    assert code.includes == {"metal_atomic"}


@pytest.mark.parametrize("sem", ["acquire", "relaxed"])
def test_atomics_that_metal_lacks(sem: str) -> None:
    x = tensor("x", I64 if sem == "relaxed" else I32, N)
    old = ir.Var("old", x.dtype)
    body = [ir.Let(old), ir.Atomic("add", x, TID, ir.Const(1, x.dtype), result=old, sem=sem)]
    with pytest.raises(KtError) as caught:
        printed(body, x)
    (found,) = caught.value.diagnostics
    assert found.code == "KT0602"
    assert "Metal" in found.message


def test_source_statements_stand_where_their_code_begins() -> None:
    """Above a loop over registers that is all of one, inside a loop that is of several."""
    v, i, j = ir.Var("v", F32, (2,)), scalar("i", I32), scalar("j", I32)
    first, second, third = (tile.Span(n, 1) for n in (1, 2, 3))
    body = [
        ir.Let(v),
        ir.LaneLoop(i, 2, [ir.Assign(ir.Element(v, (i,)), number(1), span=first)]),
        ir.LaneLoop(j, 2, [
            ir.Assign(ir.Element(v, (j,)), number(2), span=second),
            ir.Assign(ir.Element(v, (j,)), number(3), span=third),
        ]),
        ir.LaneLoop(i, 2, [ir.Assign(ir.Element(v, (i,)), number(4), span=second)]),
    ]  # fmt: skip
    lines = printed(body, comments={1: "v = 1", 2: "v = 2", 3: "v = 3"}).body
    assert [line for line in lines if "//" in line] == [
        "  // v = 1", "    // v = 2", "    // v = 3",
    ]  # fmt: skip
    for text in ("v = 1", "v = 2", "v = 3"):
        (at,) = [n for n, line in enumerate(lines) if line.strip() == f"// {text}"]
        assert "//" not in lines[at + 1]


def limits(**changes: object) -> KtError:
    kernel = ir.Kernel("k", (), (), (M,), 64, 32, (), [])
    for name, value in changes.items():
        setattr(kernel, name, value)
    from tests.metal.kernels import source
    from transpile.emitters.msl.host import host_sizes
    from transpile.emitters.msl.kernel import print_kernel
    from transpile.passes.schedule import Schedule

    outer = source(*kernel.tensors)
    with pytest.raises(KtError) as caught:
        print_kernel(outer, kernel, host_sizes(outer, Schedule({}, {})), {})
    return caught.value


def test_limits_are_told_with_numbers() -> None:
    big = ir.SharedBuffer("tile", F32, (128, 64), pad=4)
    (found,) = limits(shared=(big,)).diagnostics
    assert (found.code, "34816 bytes" in found.message) == ("KT0611", True)
    assert found.why is not None and "32768" in found.why and "128x64" in found.why
    assert limits(threads=2048).diagnostics[0].code == "KT0612"
    assert limits(grid=(M, M, M, M)).diagnostics[0].code == "KT0614"
    many = tuple(tensor(f"t{i}", F32, N) for i in range(32))
    assert limits(tensors=many).diagnostics[0].code == "KT0613"
