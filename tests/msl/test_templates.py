"""Kernel templates: their instances are kernels, and mistakes in them are found at their lines."""

from __future__ import annotations

import re

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("clang.cindex")
pytest.importorskip("ziglang")

from tests.msl.programs import HEADER, line_of  # noqa: E402
from transpile.verify.msl import prepass, strict  # noqa: E402
from transpile.verify.msl.backend import Executor  # noqa: E402
from transpile.verify.msl.executor import ExecutionError, Module  # noqa: E402

KERNEL = """\
template <typename T, short N, short WM>
[[kernel, max_total_threads_per_threadgroup(WM * 32)]] void scale(
    const device T* x [[buffer(0)]],
    device T* y [[buffer(1)]],
    ushort t [[thread_index_in_threadgroup]]) {
  constexpr short THREADS = WM * 32;
  threadgroup T tile[THREADS * N];
  UNROLL for (short i = 0; i < N; ++i) {
    tile[t + i * THREADS] = x[t + i * THREADS];
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  vec<T, 2> pair = vec<T, 2>(float2(2.0f));
  UNROLL for (short i = 0; i < N; ++i) {
    y[t + i * THREADS] = T(float(tile[THREADS * N - 1 - (t + i * THREADS)]) * float(pair[i % 2]));
  }
}
"""
HALF = """
template [[host_name("scale_half")]] [[kernel]] decltype(scale<half, 4, 1>) scale<half, 4, 1>;
"""
FLOAT = """
template [[host_name("scale_float")]] [[kernel]]
decltype(scale<float, 1, 2>) scale<float, 1, 2>;
"""
UNROLL = '#define UNROLL _Pragma("clang loop unroll(full)")\n'


def source(*instances: str, kernel: str = KERNEL) -> str:
    return HEADER + UNROLL + kernel + "".join(instances)


def test_instances_are_kernels() -> None:
    text = source(HALF, FLOAT)
    assert strict.check(text) == []
    kernels = prepass.translate(text).kernels
    found = {n: (k.call, k.max_threads, k.parameters[0].type) for n, k in kernels.items()}
    assert found == {
        "scale_half": ("scale<half, 4, 1>", 32, "half"),
        "scale_float": ("scale<float, 1, 2>", 64, "float"),
    }


@pytest.mark.parametrize(
    ("name", "dtype", "count", "threads"),
    [("scale_half", torch.float16, 128, 32), ("scale_float", torch.float32, 64, 64)],
)
@pytest.mark.parametrize("reverse", [False, True])
def test_instances_run(
    name: str, dtype: torch.dtype, count: int, threads: int, reverse: bool
) -> None:
    x = torch.arange(count).to(dtype)
    y = torch.zeros_like(x)
    module = Module(source(HALF, FLOAT))
    module.launch(name, [x, y], (1, 1, 1), (threads, 1, 1), reverse=reverse)
    assert torch.equal(y, x.flip(0) * 2)


# name, what is wrong with it, part of the message
MISTAKES = [
    ("no instance", source(kernel=KERNEL.replace("void scale(", "void scale(  // !")), "has no instance"),
    ("one name twice", source(HALF, FLOAT.replace('_float")]]', '_half")]]  // !')), "two kernels have the host_name `scale_half`"),
    ("no such template", source(HALF, FLOAT.replace("(scale<", "(scales<").replace("scale<float, 1, 2>;", "scales<float, 1, 2>;").replace("[[kernel]]", "[[kernel]]  // !")), "no kernel template `scales`"),
    ("no host_name", source(HALF, '\ntemplate [[kernel]] decltype(scale<float, 1, 2>) scale<float, 1, 2>;  // !\n'), "has no host_name"),
    ("host_name that is no name", source(HALF, FLOAT.replace('scale_float")]]', 'scale float")]]  // !')), "is no name"),
    ("too many arguments", source(HALF, FLOAT.replace("1, 2>", "1, 2, 3>").replace("[[kernel]]", "[[kernel]]  // !")), "too many template arguments"),
    ("too few arguments", source(HALF, FLOAT.replace("<float, 1, 2>", "<float, 1>").replace("decltype(scale<float, 1>) scale<float, 1>;", "decltype(scale<float, 1>) scale<float, 1>;  // !")), "scale|couldn't infer"),
    ("a mistake in one instance only", source(HALF, FLOAT, kernel=KERNEL.replace("    tile[t + i", "    half h = x[0]; static_assert(sizeof(T) == 2, \"two bytes\"); (void)h;  // !\n    tile[t + i")), "two bytes"),
    ("a name that is undeclared", source(HALF, kernel=KERNEL.replace("tile[t + i * THREADS] =", "tiles[t + i * THREADS] =  // !\n        ")), "undeclared identifier 'tiles'"),
    ("a cast between address spaces", source(HALF, kernel=KERNEL.replace("  vec<T, 2>", "  const device T* p = (const device T*)&tile[0];  // !\n  vec<T, 2>", 1)), "changes the address space"),
    ("a pointer without address space", source(HALF, kernel=KERNEL.replace("  vec<T, 2>", "  T* p; (void)p;  // !\n  vec<T, 2>", 1)), "names no address space"),
    ("too much threadgroup memory", source(HALF.replace("4, 1>", "1024, 1>"), kernel=KERNEL.replace("void scale(", "void scale(  // !")), "65536 bytes of threadgroup memory"),
    ("index over the end", source(FLOAT, kernel=KERNEL.replace("threadgroup T tile[THREADS * N];", "threadgroup T tile[THREADS * N]; float a[N]; a[N] = 0.0f;  // !")), "past the end|array index"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"), [m[1:] for m in MISTAKES], ids=[m[0] for m in MISTAKES]
)
def test_mistakes_are_found(text: str, message: str) -> None:
    found = strict.check(text)
    assert any(re.search(message, p.message) for p in found), found
    lines = {p.line for p in found if re.search(message, p.message)}
    assert line_of(text, "!") in lines


def test_faults_have_lines_of_the_template() -> None:
    wrong = KERNEL.replace("y[t + i * THREADS] =", "y[t + i * THREADS + 1] =  // !\n       ")
    text = source(FLOAT, kernel=wrong)
    x = torch.zeros(64)
    line = line_of(text, "!")
    with pytest.raises(ExecutionError, match=f"at line ({line}|{line + 1})\\b"):
        Module(text).launch("scale_float", [x, x.clone()], (1, 1, 1), (64, 1, 1))


def test_too_many_threads_for_one_instance() -> None:
    x = torch.zeros(64, dtype=torch.float16)
    with pytest.raises(ExecutionError, match="at most 32"):
        Module(source(HALF)).launch("scale_half", [x, x.clone()], (1, 1, 1), (64, 1, 1))


def test_tensors_of_another_type_than_the_instance() -> None:
    x = torch.zeros(128)
    with pytest.raises(ExecutionError, match="points to half"):
        Module(source(HALF)).launch("scale_half", [x, x.clone()], (1, 1, 1), (32, 1, 1))


def test_a_name_that_the_library_lacks() -> None:
    library = Executor().compile(source(HALF))
    assert library.max_threads("scale_half") == 32
    with pytest.raises(ExecutionError, match="no kernel `scale_bfloat`"):
        library.max_threads("scale_bfloat")
