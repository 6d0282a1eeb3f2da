"""The Triton shim's launches on a GPU: results, and that triton's own ways are kept to."""

import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
if torch.cuda.is_available():
    sys.path.insert(0, str(Path(__file__).parents[2] / "runtime_shims"))
    import _kt_triton as kt
    import triton

    from . import kernels

ADD = {"x": "f32[N]", "y": "f32[N]", "out": "f32[N]"}


def add_launcher(**options):
    return kt.Launcher(kernels.add_kernel, ADD, BLOCK=256, **options)


def vectors(n, dtype=None, device="cuda"):
    x, y = (torch.randn(n, device=device, dtype=dtype) for _ in range(2))
    return x, y, torch.full_like(x, float("nan"))


def call_add(launch, n=1000):
    x, y, out = vectors(n)
    launch((triton.cdiv(n, 256),), x, y, out, n)
    assert torch.equal(out, x + y)


def internals(launch):
    return launch.__globals__["first_call"].__self__


def watch(monkeypatch):
    """Count triton's own calls."""
    calls = []
    run = triton.JITFunction.run

    def counted(self, *args, **kwargs):
        calls.append(1)
        return run(self, *args, **kwargs)

    monkeypatch.setattr(triton.JITFunction, "run", counted)
    return calls


def test_the_second_call_does_not_go_through_triton(monkeypatch):
    launch = add_launcher()
    calls = watch(monkeypatch)
    for _ in range(4):
        call_add(launch)
    assert len(calls) == 1
    for n in (1, 17, 256, 1024, 1000):  # 1 and multiples of 16 are compiled in
        call_add(launch, n)
        call_add(launch, n)
    assert len(calls) == 3


def test_a_new_size_of_a_known_kind_is_launched_directly(monkeypatch):
    launch = add_launcher()
    call_add(launch, 160)
    calls = watch(monkeypatch)
    call_add(launch, 320)
    assert not calls


def test_misaligned_pointers_get_their_own_binary():
    launch = add_launcher()
    for offset in (0, 1, 2, 4, 1, 0):
        x, y, out = (torch.randn(1028, device="cuda")[offset : offset + 1024] for _ in range(3))
        launch((4,), x, y, out, 1024)
        assert torch.equal(out, x + y)


def test_scalar_kinds():
    launch = kt.Launcher(kernels.scale_kernel, {"x": "f32[N]", "out": "f32[N]"}, BLOCK=64)
    x = torch.randn(50, device="cuda")
    for factor in (2, 1, 1.0, 2.5, 0.5, torch.tensor(3.0), torch.tensor(4)):
        for flag in (True, False, torch.tensor(True)):
            for _ in range(2):
                out = torch.empty_like(x)
                launch((1,), x, out, 50, factor, flag)
                torch.testing.assert_close(out, x * factor if flag else -(x * factor))


def test_changing_seeds_do_not_fill_the_dictionary():
    launch = kt.Launcher(kernels.seed_kernel, {"out": "i64[N]"}, BLOCK=64)
    out = torch.empty(60, dtype=torch.int64, device="cuda")
    for seed in (1, 2, 3, -(2**31), 2**31 - 64, 2**31, 2**40, 16):
        launch((1,), out, seed, 60)
        assert out.tolist() == list(range(seed, seed + 60)), seed
    assert len(internals(launch).remembered) == 3


def test_hooks_and_debug_go_through_triton(monkeypatch):
    launch = add_launcher()
    call_add(launch)
    call_add(launch)
    seen = []
    triton.knobs.runtime.launch_enter_hook.add(seen.append)
    try:
        call_add(launch)
    finally:
        triton.knobs.runtime.launch_enter_hook.remove(seen.append)
    assert len(seen) == 1
    kernels.add_kernel.pre_run_hooks.append(lambda *args, **kwargs: seen.append(2))
    call_add(launch)
    kernels.add_kernel.pre_run_hooks.clear()
    assert len(seen) == 2
    calls = watch(monkeypatch)
    with triton.knobs.runtime.scope():
        triton.knobs.runtime.debug = True
        call_add(launch)
    assert len(calls) == 1
    call_add(launch)
    assert len(calls) == 1


def test_streams_and_graphs():
    launch = add_launcher()
    x, y, out = vectors(1000)
    launch((4,), x, y, out, 1000)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(20_000_000)
        out.zero_()
        x.fill_(1.0)
        launch((4,), x, y, out, 1000)  # on another stream it would run before the zeroing
    torch.cuda.current_stream().wait_stream(side)
    assert torch.equal(out, y + 1)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launch((4,), x, y, out, 1000)
    x.fill_(2.0)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(out, y + 2)


def test_parameters_and_subclasses():
    launch = add_launcher()
    x, y, out = vectors(1000)
    for _ in range(2):
        launch((4,), torch.nn.Parameter(x), y, out, 1000)
        assert torch.equal(out, x + y)

    class Marked(torch.Tensor):
        pass

    for _ in range(2):
        out.zero_()
        launch((4,), x.as_subclass(Marked), y, out, 1000)
        assert torch.equal(out, x + y)


def test_other_devices():
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    launch = add_launcher()
    for device in ("cuda:1", "cuda:0", "cuda:1"):
        x, y, out = vectors(1000, device=device)
        launch((4,), x, y, out, 1000)
        assert torch.equal(out, x + y)
    with pytest.raises(kt.KtError, match=r"move it to cuda:1"):
        launch((4,), x, y.to("cuda:0"), out, 1000)


def test_empty_grids_and_cpu_tensors():
    launch = add_launcher()
    x, y, out = vectors(0)
    launch((0,), x, y, out, 0)
    x, y, out = vectors(1000)
    with pytest.raises(kt.KtError, match="KT_INTERPRET"):
        launch((4,), x.cpu(), y.cpu(), out.cpu(), 1000)
    with pytest.raises(kt.KtError, match="move it to cuda:0"):
        launch((4,), x, y.cpu(), out, 1000)
    launch((4,), x, y, out, 1000)
    with pytest.raises(kt.KtError, match="move it to cuda:0"):
        launch((4,), x, y.cpu(), out, 1000)


def test_shapes_are_checked_after_warm_up():
    launch = add_launcher()
    x, y, out = vectors(1000)
    for _ in range(2):
        launch((4,), x, y, out, 1000)
    with pytest.raises(kt.KtError, match="N is 1000 in x"):
        launch((4,), x, y[:999], out, 1000)
    with pytest.raises(kt.KtError, match="stride 1"):
        launch((4,), torch.randn(2000, device="cuda")[::2], y, out, 1000)
    with pytest.raises(kt.KtError, match="convert it"):
        launch((4,), x.double(), y, out, 1000)


def test_a_binary_outlives_triton_s_cache():
    launch = add_launcher()
    call_add(launch)
    kernels.add_kernel.device_caches.clear()
    call_add(launch)


def test_descriptors():
    if not kt.tma_ok(torch.empty(16, 16, device="cuda")):
        pytest.skip("needs TMA")
    launch = kt.Launcher(
        kernels.double_kernel, {"x": "tma f16[M,64]", "out": "tma f16[M,64]"}, BLOCK_M=32
    )
    for m in (100, 64, 100, 100):
        x = torch.randn(m, 64, device="cuda", dtype=torch.float16)
        out = torch.empty_like(x)
        launch((2,), kt.descriptor(x, (32, 64)), kt.descriptor(out, (32, 64)), m)
        assert torch.equal(out, x * 2)
    assert kt.descriptor(x, (32, 64)) is kt.descriptor(x, (32, 64))
    before = torch.cuda.memory_allocated()
    big = torch.empty(2**20, 64, device="cuda", dtype=torch.float16)
    kt.descriptor(big, (32, 64))
    del big
    assert torch.cuda.memory_allocated() == before
    assert not kt.tma_ok(torch.empty(64, 65, device="cuda")[:, :64])
    with pytest.raises(kt.KtError, match="multiple of 16 bytes"):
        kt.descriptor(torch.empty(65, device="cuda")[1:], (32,))


def test_descriptors_made_on_the_device():
    if not kt.tma_ok(torch.empty(16, 16, device="cuda")):
        pytest.skip("needs TMA")
    launch = kt.Launcher(
        kernels.double_on_device_kernel,
        {"x": "f16[M,64]", "out": "f16[M,64]"},
        BLOCK_M=32,
        BLOCK_N=64,
    )
    for _ in range(3):
        x = torch.randn(100, 64, device="cuda", dtype=torch.float16)
        out = torch.empty_like(x)
        kt.set_allocator()
        launch((4,), x, out, 100, 64)
        assert torch.equal(out, x * 2)


def test_num_sms():
    count = torch.cuda.get_device_properties(0).multi_processor_count
    assert kt.num_sms(torch.device("cuda")) == kt.num_sms(0) == count


def test_torch_compile():
    launch = add_launcher()

    def f(x, y):
        out = torch.empty_like(x)
        launch((4,), x, y, out, x.size(0))
        return out * 2

    x, y, _ = vectors(1000)
    compiled = torch.compile(f, fullgraph=True)
    torch.testing.assert_close(compiled(x, y), (x + y) * 2)
    torch.testing.assert_close(compiled(x, y), (x + y) * 2)
