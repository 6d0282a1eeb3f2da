"""The Metal shim on its own: what it checks, and what exactly it passes on."""

from __future__ import annotations

import importlib.util
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

torch = pytest.importorskip("torch")

SHIM = Path(__file__).resolve().parents[2] / "runtime_shims" / "_kt_metal.py"


class FakeKernel:
    """What torch.mps.compile_shader gives for a kernel; remembers its calls."""

    max_threads_per_threadgroup = 1024

    def __init__(self, calls: list[Any]) -> None:
        self.calls = calls

    def __call__(self, *args: Any, **options: Any) -> None:
        self.calls.append((args, options))


class FakeMps:
    """torch.mps, as far as the shim knows it."""

    def __init__(self) -> None:
        self.sources: list[str] = []
        self.calls: list[Any] = []

    def compile_shader(self, source: str) -> Any:
        self.sources.append(source)
        kernel = FakeKernel(self.calls)
        return type("Library", (), {"copy": kernel, "scale": kernel})()


@pytest.fixture
def kt() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("_kt_metal_under_test", SHIM)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def mps(kt: ModuleType, monkeypatch: pytest.MonkeyPatch) -> FakeMps:
    fake = FakeMps()
    monkeypatch.setattr(torch, "mps", fake)
    monkeypatch.setattr(kt._backend, "device", "cpu")
    return fake


@pytest.fixture
def scale(kt: ModuleType, mps: FakeMps) -> Callable[..., None]:
    library = kt.Library("x.py", "x.metal", "the source")
    launcher: Callable[..., None] = kt.Launcher(
        library, "scale", {"x": "f16[M,N]", "out": "out f16[M,N]"},
        {"n": "i32", "alpha": "f32"}, threads=(128, 1, 1),
    )  # fmt: skip
    return launcher


def half(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.float16)


def test_whole_threadgroups_and_the_struct_in_words(
    scale: Callable[..., None], mps: FakeMps
) -> None:
    x, out = half(4, 8), half(4, 8)
    scale((4,), x, out, 8, 0.5)
    ((args, options),) = mps.calls
    words = struct.unpack("<2i", struct.pack("<if", 8, 0.5))
    assert args[0] is x and args[1] is out and args[2] == words
    assert options == {
        "threads": [512, 1, 1], "group_size": [128, 1, 1], "arg_casts": {2: "int32"}
    }  # fmt: skip


def test_no_scalars_no_struct(kt: ModuleType, mps: FakeMps) -> None:
    copy = kt.Launcher(
        kt.Library("x.py", "x.metal", "text"), "copy", {"x": "f32[N]"}, threads=(32, 4, 1)
    )
    copy((2, 3), torch.zeros(5))
    ((args, options),) = mps.calls
    assert len(args) == 1
    assert options == {"threads": [64, 12, 1], "group_size": [32, 4, 1]}


def test_compiled_once_for_all_launchers(kt: ModuleType, mps: FakeMps) -> None:
    library = kt.Library("x.py", "x.metal", "text")
    launchers = [
        kt.Launcher(library, name, {"x": "f32[N]"}, threads=(32, 1, 1))
        for name in ("copy", "scale")
    ]
    for launch in launchers * 3:
        launch((1,), torch.zeros(3))
    assert mps.sources == ["text"]
    assert len(mps.calls) == 6


def test_source_is_read_from_the_file_beside_the_module(
    kt: ModuleType, mps: FakeMps, tmp_path: Path
) -> None:
    (tmp_path / "k.metal").write_text("// kernels\n")
    library = kt.Library(str(tmp_path / "k_metal.py"), "k.metal")
    kt.Launcher(library, "copy", {"x": "f32[N]"}, threads=(32, 1, 1))((1,), torch.zeros(3))
    assert mps.sources == ["// kernels\n"]


def test_an_empty_grid_launches_nothing(scale: Callable[..., None], mps: FakeMps) -> None:
    scale((0,), half(0, 8), half(0, 8), 8, 1.0)
    assert mps.sources == [] and mps.calls == []


@pytest.mark.parametrize(
    ("members", "values", "expected"),
    [
        ({"a": "i32", "b": "i64"}, (1, 2), struct.pack("<i4xq", 1, 2)),
        ({"b": "i64", "a": "i32"}, (2, 1), struct.pack("<qi4x", 2, 1)),
        ({"flag": "bool", "n": "i32"}, (True, 7), struct.pack("<?3xi", True, 7)),
        ({"flag": "bool"}, (True,), struct.pack("<?3x", True)),
        ({"h": "f16", "u": "u32"}, (1.5, 2**32 - 1), struct.pack("<e2xI", 1.5, 2**32 - 1)),
    ],
)
def test_struct_layout_is_that_of_c(
    kt: ModuleType, members: dict[str, str], values: tuple[Any, ...], expected: bytes
) -> None:
    launcher = kt.Launcher(
        kt.Library("x.py", "x.metal", ""), "k", {"x": "f32[N]"}, members, threads=(32, 1, 1)
    )
    assert launcher.pack(values) == expected
    assert len(expected) % 4 == 0


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (
            lambda: half(4, 8).float(),
            r"x must be f16\[M,N\], got f32\[4,8\].*\.to\(torch.float16\)",
        ),
        (lambda: half(4), r"rank 2"),
        (lambda: half(8, 4).t(), r"dim 1 must have stride 1: pass \.contiguous\(\)"),
        (lambda: half(4, 9), r"out must be.*dim 1 \(N\) is 8, but N is 9 in x"),
        (lambda: half(4, 8).to("meta"), r"on meta; move it to the GPU"),
        (lambda: [1.0], r"got list \[1.0\]; pass a torch tensor"),
    ],
)
def test_arguments_that_do_not_fit(
    scale: Callable[..., None], kt: ModuleType, make: Callable[[], Any], complaint: str
) -> None:
    with pytest.raises(kt.KtError, match=complaint):
        scale((4,), make(), half(4, 8), 8, 1.0)


def test_a_scalar_out_of_range(scale: Callable[..., None], kt: ModuleType) -> None:
    with pytest.raises(kt.KtError, match="scale: cannot pass n=4294967296"):
        scale((4,), half(4, 8), half(4, 8), 2**32, 1.0)


def test_offsets_beyond_32_bits_are_refused_unless_the_kernel_has_64(
    kt: ModuleType, mps: FakeMps
) -> None:
    kt._backend.device = "meta"
    apart = torch.empty_strided((2, 1), (2**31 - 1, 1), device="meta")
    launchers = [
        kt.Launcher(
            kt.Library("x.py", "x.metal", "text"), "copy", {"x": "f32[M,N]"},
            threads=(32, 1, 1), index64=index64,
        )
        for index64 in (False, True)
    ]  # fmt: skip
    with pytest.raises(kt.KtError, match="too far for 32-bit offsets"):
        launchers[0]((1,), apart)
    launchers[1]((1,), apart)
    assert len(mps.calls) == 1


def test_groups_that_the_pipeline_cannot_take(
    scale: Callable[..., None], kt: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeKernel, "max_threads_per_threadgroup", 96)
    with pytest.raises(kt.KtError, match=r"128 threads, but this device.*at most 96.*96}"):
        scale((1,), half(1, 8), half(1, 8), 8, 1.0)


def test_tensors_that_vectors_cannot_reach_are_copied(kt: ModuleType, mps: FakeMps) -> None:
    library = kt.Library("x.py", "x.metal", "text")
    copy = kt.Launcher(
        library, "copy", {"x": "f32[N] @16", "out": "out f32[N] @16"}, threads=(32, 1, 1)
    )
    base, result = torch.arange(9.0), torch.zeros(9)

    def write(self: FakeKernel, x: torch.Tensor, out: torch.Tensor, **_: Any) -> None:
        assert x.storage_offset() == out.storage_offset() == 0
        out.copy_(x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeKernel, "__call__", write)
        copy((1,), base[1:], result[1:])
    assert torch.equal(result, torch.tensor([0.0, *range(1, 9)]))
    copy((1,), base[4:], result[4:])  # 16 bytes
    ((args, _),) = mps.calls
    assert args[0].storage_offset() == 4


def test_a_backend_of_ones_own(kt: ModuleType) -> None:
    launched: list[Any] = []

    class Compiled:
        def max_threads(self, kernel: str) -> int:
            return 64

        def launch(self, *args: Any) -> None:
            launched.append(args)

    class Backend:
        device = "cpu"

        def compile(self, source: str) -> Compiled:
            return Compiled()

    kt.set_backend(Backend())
    x = torch.zeros(3)
    launcher = kt.Launcher(
        kt.Library("x.py", "x.metal", "text"), "copy", {"x": "inout f32[N]"}, {"n": "i32"},
        threads=(64, 1, 1),
    )  # fmt: skip
    launcher((2, 5), x, 3)
    ((kernel, buffers, groups, threads),) = launched
    assert (kernel, groups, threads) == ("copy", (2, 5, 1), (64, 1, 1))
    assert buffers[0] is x and buffers[1] == struct.pack("<i", 3)
    assert kt.num_sms(x.device) == 4
    kt.set_backend(None)
    assert kt._backend.device == "mps"


def test_fp8_may_come_as_bytes(kt: ModuleType, mps: FakeMps) -> None:
    launch = kt.Launcher(
        kt.Library("x.py", "x.metal", "text"), "copy", {"x": "f8e4m3[N]"}, threads=(32, 1, 1)
    )
    launch((1,), torch.zeros(4, dtype=torch.uint8))
    launch((1,), torch.zeros(4).to(torch.float8_e4m3fn))
    assert len(mps.calls) == 2
