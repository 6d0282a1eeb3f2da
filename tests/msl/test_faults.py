"""Faults at run time: each is found in both orders of the threads, with the line it happens at;
correct programs run in silence."""

from __future__ import annotations

import re
import struct

import pytest

from tests.msl.programs import BARRIER, HEADER, line_of, module, program, run, torch, usual

from transpile.verify.msl.executor import ExecutionError  # isort: skip

S = "threadgroup float s[128];\n"

# name, body with the line of the fault marked, part of the message
FAULTS = [
    ("read past the end of a buffer", "y[i] = x[i + 1]; // !", r"out-of-bounds read: 4 bytes, 4 past the end of buffer 0 \(x\) \(1024 bytes\)"),
    ("write before the start", "y[int(i) - 1] = 1.0f; // !", r"out-of-bounds write: 4 bytes, 4 before the start of buffer 1 \(y\)"),
    ("vector read past the end", "y[i] = ((device const packed_float4*)(x + i))->w; // !", r"out-of-bounds read"),
    ("far out of bounds", "y[i] = x[i + 100000000]; // !", r"past the end of buffer 0"),
    ("index that wraps around", "y[i] = x[i - 1]; // !", r"past the end of buffer 0"),
    ("overrun of a threadgroup array by a pointer", S + f"threadgroup float z[128]; s[t] = 0.0f; z[t] = 0.0f; {BARRIER}\nthreadgroup float* p = s;\ny[i] = p[t + 1]; // !", r"past the end of s \(512 bytes\)"),
    ("index past a threadgroup array", S + "s[t + 1] = 1.0f; // !\ny[i] = 0.0f;", r"index 128 is out of bounds|past the end of s"),
    ("index past a private array", "float a[4]; for (uint q = 0; q < 4; q++) { a[q] = x[i]; }\ny[i] = a[t & 7]; // !", r"array index \d is out of bounds"),
    ("other thread's private memory", "threadgroup ulong s[128]; float v = x[i]; s[t] = (ulong)&v;\n" + BARRIER + "\ny[i] = *(thread float*)s[(t + 1) & 127]; // !", r"another thread's private memory"),
    ("wild pointer", "y[i] = *(device float*)(ulong)(16 + t * 4); // !", r"outside all memory"),
    ("misaligned vector", "y[i] = dot(*(device const float4*)(x + (i & 1)), float4(1.0f)); // !", r"misaligned access"),
    ("misaligned threadgroup vector", "threadgroup half s[136]; s[t] = 0.0h; " + BARRIER + "\ny[i] = float(dot(*(threadgroup half4*)(s + 1), half4(1.0h))); // !", r"misaligned access"),
    ("write to constant memory", "*(device uint*)(ulong)(&n) = 3u; // !\ny[i] = 0.0f;", r"write to buffer 2 \(n\), which is constant"),
    ("integer division by zero", "y[i] = float(t / (n - 5u)); // !", r"division by zero"),
    ("shift by the whole width", "y[i] = float(1u << (n + 27u + t)); // !", r"shift by \d+ bits"),
    ("read after write without a barrier", S + "s[t] = x[i];\ny[i] = s[127 - t]; // !", r"race: read of s|uninitialised threadgroup memory: s"),
    ("write after read without a barrier", S + f"s[t] = x[i];\n{BARRIER}\nfloat v = s[127 - t];\ns[t] = v * 2.0f; // !\n{BARRIER}\ny[i] = s[t];", r"race: (read|write) of s"),
    ("no barrier inside a SIMD group", S + "s[t] = x[i];\ny[i] = s[t ^ 1]; // !", r"race: read of s|uninitialised"),
    ("SIMD-group barrier across SIMD groups", S + "s[t] = x[i]; simdgroup_barrier(mem_flags::mem_threadgroup);\ny[i] = s[t ^ 32]; // !", r"race: read of s|uninitialised"),
    ("SIMD-group barrier for other memory", S + "s[t] = x[i]; simdgroup_barrier(mem_flags::mem_device);\ny[i] = s[t ^ 1]; // !", r"race: read of s"),
    ("barrier without memory", S + "s[t] = x[i]; threadgroup_barrier(mem_flags::mem_none);\ny[i] = s[127 - t]; // !", r"race: read of s"),
    ("barrier for other memory", S + "s[t] = x[i]; threadgroup_barrier(mem_flags::mem_device);\ny[i] = s[127 - t]; // !", r"race: read of s"),
    ("device memory with a threadgroup barrier", f"y[i] = x[i]; {BARRIER}\ny[i] = y[i ^ 64]; // !", r"race: (read|write) of buffer 1"),
    ("barrier in a divergent branch", S + f"s[t] = 0.0f;\nif (t < 64) {{\n{BARRIER} // !\n}}\ny[i] = s[t];", r"barrier divergence"),
    ("two different barriers", f"if (t < 64) {{\n{BARRIER} // !\n}} else {{\n{BARRIER}\n}}\ny[i] = 0.0f;", r"barrier divergence"),
    ("return before a barrier", f"if (t >= 100) {{ return; }}\n{BARRIER} // !\ny[i] = 0.0f;", r"barrier divergence"),
    ("barrier in a loop of different length", f"for (uint q = 0; q < 1 + t / 64; q++) {{\n{BARRIER} // !\n}}\ny[i] = 0.0f;", r"barrier divergence"),
    ("SIMD operation in a divergent branch", "float s = 0.0f;\nif (lane < 16) { s = simd_sum(1.0f); } // !\ny[i] = s;", r"inactive lanes|divergent SIMD-group operation"),
    ("two different SIMD operations", "float s = 0.0f;\nif (lane < 16) { s = simd_sum(1.0f); // !\n} else { s = simd_max(1.0f); }\ny[i] = s;", r"divergent SIMD-group operation"),
    ("shuffle after a lane returned", "if (lane == 31) { return; }\ny[i] = simd_shuffle(1.0f, 31); // !", r"inactive lanes|divergent"),
    ("shuffle from beyond the SIMD group", "y[i] = simd_shuffle(x[i], 32 + lane); // !", r"a lane that is not there is read"),
    ("matrix load without some lanes", "threadgroup float s[64]; if (t < 64) { s[t] = 1.0f; } " + BARRIER + "\nsimdgroup_float8x8 a(0.0f), d;\nif (lane < 31) { simdgroup_load(a, s, 8); }\nsimdgroup_multiply(d, a, a); y[i] = d.thread_elements()[0]; // !", r"divergent simdgroup_load"),
    ("uninitialised threadgroup memory", S + f"if (t < 64) {{ s[t] = 0.0f; }}\n{BARRIER}\ny[i] = s[127 - t]; // !", r"uninitialised threadgroup memory: s"),
    ("two threads write one element", "y[i / 2] = x[i]; // !", r"race: write of buffer 1"),
    ("two threadgroups write one element", "y[t] = x[i]; // !", r"race between threadgroups: write"),
    ("a threadgroup reads what another writes", "y[i] = 1.0f;\nif (t == 0) { y[i] = y[(i + 128) & 255]; } // !", r"race between threadgroups: read|race between threadgroups: write"),
    ("plain and atomic accesses", "if (t == 0) { ((device uint*)count)[0] = 1u; // !\n}\natomic_fetch_add_explicit(count, 1u, memory_order_relaxed);", r"race"),
]  # fmt: skip
TWO_LINED = {"plain and atomic accesses", "a threadgroup reads what another writes"}


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("name", [f[0] for f in FAULTS])
def test_fault_is_found(name: str, reverse: bool) -> None:
    _, body, message = next(f for f in FAULTS if f[0] == name)
    source = program(body)
    buffers = usual()
    before = buffers[1].clone()
    with pytest.raises(ExecutionError) as caught:
        run(source, buffers, reverse=reverse)
    text = str(caught.value)
    assert re.search(message, text), text
    lines = [int(n) for n in re.findall(r"line (\d+)", text)]
    expected = line_of(source, "!")
    assert expected in lines or name in TWO_LINED, text
    assert torch.equal(buffers[1], before)


CORRECT = [
    ("threadgroup exchange", S + f"s[t] = x[i];\n{BARRIER}\nfloat v = s[127 - t];\n{BARRIER}\ns[t] = v * 2.0f;\n{BARRIER}\ny[i] = s[t ^ 1];"),
    ("SIMD-group exchange", S + "s[t] = x[i]; simdgroup_barrier(mem_flags::mem_threadgroup);\ny[i] = s[t ^ 1];"),
    ("many readers, then a writer", S + f"s[t] = x[i]; {BARRIER}\nfloat v = s[0] + s[127]; {BARRIER}\nif (t == 0) {{ s[0] = v; }} {BARRIER}\ny[i] = s[0] + v;"),
    ("branch of whole SIMD groups", "float s = 0.0f; if (simdgroup == 1) { s = simd_sum(1.0f); }\ny[i] = s;"),
    ("atomics", "atomic_fetch_add_explicit(count, 1u, memory_order_relaxed); y[i] = 0.0f;"),
    ("device exchange", "y[i] = x[i]; threadgroup_barrier(mem_flags::mem_device);\nfloat v = y[i ^ 64]; threadgroup_barrier(mem_flags::mem_device); y[i] = v;"),
    ("packed vector at any element", "if (i < 253) { y[i] = ((device const packed_float4*)(x + i))->w; }"),
    ("threadgroup memory used twice", S + f"for (uint r = 0; r < 3; r++) {{ s[t] = x[i] + float(r); {BARRIER} y[i] = s[127 - t]; {BARRIER} }}"),
    ("early return of a whole threadgroup", f"if (group == 1) {{ return; }} {BARRIER} y[i] = 0.0f;"),
]  # fmt: skip


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("body", [c[1] for c in CORRECT], ids=[c[0] for c in CORRECT])
def test_correct_program_runs(body: str, reverse: bool) -> None:
    run(program(body), usual(), reverse=reverse)


def test_lines_of_callers_are_named() -> None:
    helpers = """static inline float first(device const float* p) {
  return p[1];  // inner
}
static inline float second(device const float* p) {
  return first(p) * 2.0f;  // middle
}
"""
    source = program("float v = second(x + i);  // outer\ny[i] = v;", before=helpers)
    lines = [line_of(source, mark) for mark in ("inner", "middle", "outer")]
    with pytest.raises(ExecutionError) as caught:
        run(source, usual())
    place = "at line {} from {} from {}; line {}: `float v = second(x + i);".format(
        *lines, lines[2]
    )
    assert place in str(caught.value)


# -- the rules around a launch -----------------------------------------------------------------

COPY = program(
    "y[i] = x[i];",
    parameters="device const float* x [[buffer(0)]], device float* y [[buffer(1)]], uint i [[thread_position_in_grid]]",
)


def test_bounds_are_those_of_the_view() -> None:
    base = torch.arange(64, dtype=torch.float32)
    out = torch.zeros(32)
    run(COPY, [base[32:], out], (1, 1, 1), (32, 1, 1))
    assert torch.equal(out, base[32:])
    with pytest.raises(ExecutionError, match="past the end of buffer 0"):
        run(COPY, [base[:31], out], (1, 1, 1), (32, 1, 1))
    with pytest.raises(ExecutionError, match=r"past the end of buffer 1 \(y\) \(124 bytes\)"):
        run(COPY, [base, out[1:]], (1, 1, 1), (32, 1, 1))


def test_parts_of_one_tensor_are_apart_unless_they_overlap() -> None:
    base = torch.arange(64, dtype=torch.float32)
    run(COPY, [base[:32], base[32:]], (1, 1, 1), (32, 1, 1))
    assert torch.equal(base[:32], base[32:])
    run(COPY, [base, base], (1, 1, 1), (32, 1, 1))
    base = torch.arange(64, dtype=torch.float32)
    with pytest.raises(ExecutionError, match=r"race: .* buffers 0 and 1 \(x, y\)"):
        run(COPY, [base, base[1:]], (1, 1, 1), (32, 1, 1))


def test_alignment_is_that_of_the_storage() -> None:
    source = program(
        "float4 v = *(device const float4*)(x + 4 * t); y[t] = v.w - v.x;",
        parameters="device const float* x [[buffer(0)]], device float* y [[buffer(1)]], uint t [[thread_index_in_threadgroup]]",
    )
    base = torch.arange(64, dtype=torch.float32)
    out = torch.zeros(8)
    run(source, [base[4:], out], (1, 1, 1), (8, 1, 1))
    assert out.tolist() == [3.0] * 8
    with pytest.raises(ExecutionError, match="misaligned"):
        run(source, [base[1:], out], (1, 1, 1), (8, 1, 1))


def test_empty_tensor_has_no_elements() -> None:
    with pytest.raises(ExecutionError, match=r"buffer 0 \(x\) \(0 bytes\)"):
        run(COPY, [torch.zeros(0), torch.zeros(4)], (1, 1, 1), (4, 1, 1))


def test_struct_of_scalars_is_bounded() -> None:
    source = program(
        "y[t] = p.scale;",
        before="struct P { uint n; float scale; };\n",
        parameters="device float* y [[buffer(0)]], constant P& p [[buffer(1)]], uint t [[thread_index_in_threadgroup]]",
    )
    out = torch.zeros(4)
    run(source, [out, struct.pack("If", 1, 2.5)], (1, 1, 1), (4, 1, 1))
    assert out.tolist() == [2.5] * 4
    with pytest.raises(ExecutionError, match="past the end of buffer 1"):
        run(source, [out, struct.pack("I", 1)], (1, 1, 1), (4, 1, 1))


def test_atomic_word_of_the_last_16_bit_element() -> None:
    parameters = "device half* y [[buffer(0)]], uint t [[thread_index_in_threadgroup]]"
    text = "atomic_fetch_or_explicit((device atomic_uint*)(y + {}), 1u, memory_order_relaxed);"
    base = torch.zeros(8).half()
    run(program(text.format(2), parameters=parameters), [base[:3]], (1, 1, 1), (1, 1, 1))
    assert base.view(torch.int16).tolist() == [0, 0, 1, 0, 0, 0, 0, 0]
    with pytest.raises(ExecutionError, match="out-of-bounds atomic"):
        run(program(text.format(4), parameters=parameters), [base[:3]], (1, 1, 1), (1, 1, 1))


def test_coherent_buffers_may_pass_between_threadgroups() -> None:
    text = "if (t == 0) {{ y[group] = 1.0f; if (group > 0) {{ y[group] = y[group - 1] + 1.0f; }} }}"
    parameters = "device {} float* y [[buffer(0)]], uint t [[thread_index_in_threadgroup]], uint group [[threadgroup_position_in_grid]]"
    y = torch.zeros(4)
    with pytest.raises(ExecutionError, match="race between threadgroups"):
        run(program(text.format(), parameters=parameters.format("")), [y], (4, 1, 1), (32, 1, 1))
    source = program(text.format(), parameters=parameters.format("coherent(device)"))
    run(source, [y], (4, 1, 1), (32, 1, 1))
    assert y.tolist() == [1.0, 2.0, 3.0, 4.0]


def test_what_a_launch_must_be() -> None:
    x, y = torch.zeros(4), torch.zeros(4)
    with pytest.raises(ExecutionError, match="has buffers \\[0, 1\\], is given 1"):
        run(COPY, [x], (1, 1, 1), (4, 1, 1))
    with pytest.raises(ExecutionError, match="`x` points to float"):
        run(COPY, [x.half(), y], (1, 1, 1), (4, 1, 1))
    with pytest.raises(ExecutionError, match="2048 threads in a threadgroup, at most 1024"):
        run(COPY, [x, y], (1, 1, 1), (1024, 2, 1))
    limited = COPY.replace("kernel void", "[[max_total_threads_per_threadgroup(64)]] kernel void")
    assert module(limited).kernels["k"].max_threads == 64
    with pytest.raises(ExecutionError, match="at most 64"):
        run(limited, [x, y], (1, 1, 1), (128, 1, 1))


def test_source_that_does_not_compile() -> None:
    with pytest.raises(SyntaxError, match="undeclared identifier"):
        module(program("y[i] = z[i];"))
    with pytest.raises(SyntaxError, match="line 4"):
        module(HEADER + "kernel void k(device float* y [[buffer(0)]], float z) {}\n")
