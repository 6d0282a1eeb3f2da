"""The Triton shim's checks, and its fast way of launching, without a GPU.

Tensors on torch's meta device stand for a GPU's: they have no memory, and nothing is launched.
"""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
import _kt_triton as kt  # noqa: E402

from . import kernels  # noqa: E402

MATMUL = {"x": "bf16[M,K]", "y": "bf16[K,N]", "out": "bf16[M,N]"}


class Compiled:
    """Stands for what triton returns from a launch: a kernel with its C launcher."""

    function = 77
    packed_metadata = (4, 1, 0)

    def __init__(self):
        self.run = self
        self.launched = []
        self.global_scratch_size = self.profile_scratch_size = 0
        self.launch_cooperative_grid = self.launch_pdl = False
        self.arg_annotations = self.kernel_signature = None

    def launch(self, *args):
        self.launched.append(args)


@pytest.fixture
def device(monkeypatch):
    """A device -1, which is what meta tensors say they are on, whose current stream is 5."""
    state = {"device": -1, "stream": 5}
    for name, key in (("_cuda_getDevice", "device"), ("_cuda_getCurrentRawStream", "stream")):
        monkeypatch.setattr(torch._C, name, lambda *_, key=key: state[key], raising=False)
    return state


@pytest.fixture
def compiled(monkeypatch, device):
    """Every call of triton's own: its grid, arguments and options, and the kernel it returned."""
    calls = []

    def run(*args, grid, warmup, **options):
        calls.append((grid, args, options, Compiled()))
        return calls[-1][-1]

    for kernel in (kernels.add_kernel, kernels.scale_kernel, kernels.seed_kernel):
        monkeypatch.setattr(kernel, "run", run)
    return calls


def meta(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="meta")


def add_launcher(**options):
    vector = "f32[N]"
    return kt.Launcher(
        kernels.add_kernel, {"x": vector, "y": vector, "out": vector}, BLOCK=256, **options
    )


def add(launch, n=1000, grid=(4,)):
    launch(grid, meta(n), meta(n), meta(n), n)


# -- the fast way


def test_a_call_is_triton_s_once_and_the_c_launcher_s_after(compiled):
    launch = add_launcher(num_warps=8)
    for _ in range(3):
        add(launch)
    ((grid, args, options, kernel),) = compiled
    assert grid == (4,)
    assert args[3:] == (1000,)
    assert options == {"BLOCK": 256, "num_warps": 8}
    assert len(kernel.launched) == 2
    arguments = kernel.launched[0]
    assert arguments[:5] == (4, 1, 1, 5, 77)  # the grid, the stream, the function
    assert (0, 0, 0, 1000, 256) in (arguments[-5:], arguments[-1])


@pytest.mark.parametrize(("n", "binaries"), [(1001, 1), (1008, 2), (1, 2), (2**33, 2)])
def test_integers_choose_the_binary_by_divisibility_one_and_range(compiled, n, binaries):
    launch = kt.Launcher(kernels.seed_kernel, {"out": "i64[_]"}, BLOCK=64)
    out = meta(60, dtype=torch.int64)
    for size in (999, n, n):
        launch((1,), out, 5, size)
    assert len(compiled) == binaries


def test_scalars_that_are_not_compiled_in_share_a_binary_and_an_entry(compiled):
    launch = kt.Launcher(kernels.scale_kernel, {"x": "f32[N]", "out": "f32[N]"}, BLOCK=64)
    for factor in (0.5, 1.5, 2.5):
        launch((1,), meta(50), meta(50), 50, factor, factor > 1)
    assert len(compiled) == 1
    launch((1,), meta(50), meta(50), 50, 1, True)  # an integer is another type
    assert len(compiled) == 2
    launch((1,), meta(50), meta(50), 50, torch.tensor(2.5), torch.tensor(True))
    assert compiled[-1][1][2:] == (50, 2.5, True)


def test_seeds_share_an_entry(compiled):
    launch = kt.Launcher(kernels.seed_kernel, {"out": "i64[_]"}, BLOCK=64)
    out = meta(60, dtype=torch.int64)
    for seed in range(5000):
        launch((1,), out, seed, 60)
    assert len(compiled) == 1
    assert len(remembered(launch)) == 1


def remembered(launch):
    return launch.__globals__["remembered"]


def test_the_memory_of_calls_is_bounded(compiled):
    launch = add_launcher()
    for n in range(1, 2500):
        add(launch, n)
    assert len(remembered(launch)) <= kt._REMEMBERED


def test_another_stream_or_grid_is_another_call(compiled, device):
    launch = add_launcher()
    add(launch)
    device["stream"] = 6
    add(launch)
    add(launch, grid=(5,))
    assert [args[:4] for args in compiled[0][-1].launched] == [(4, 1, 1, 6), (5, 1, 1, 6)]


def test_grids_given_as_lists_are_launched_by_triton(compiled):
    launch = add_launcher()
    for _ in range(2):
        add(launch, grid=[4])
    assert len(compiled) == 2


def test_hooks_and_knobs_mean_triton_s_own_call(compiled, monkeypatch):
    launch = add_launcher()
    add(launch)
    knobs = launch.__globals__
    knobs["enter_hooks"].append(print)
    add(launch)
    knobs["enter_hooks"].remove(print)
    assert len(compiled) == 2
    launch.__globals__["pre_run_hooks"].append(print)
    add(launch)
    launch.__globals__["pre_run_hooks"].clear()
    assert len(compiled) == 3
    kt.knobs.runtime.debug = True
    add(launch)
    del kt.knobs.runtime.__dict__["debug"]
    assert len(compiled) == 4
    add(launch)
    assert len(compiled) == 4


def test_subclasses_of_tensor_are_launched_by_triton(compiled):
    launch = add_launcher()

    class Marked(torch.Tensor):
        pass

    add(launch)
    marked = meta(1000).as_subclass(Marked)
    for _ in range(2):
        launch((4,), marked, meta(1000), meta(1000), 1000)
    assert len(compiled) == 3
    parameter = torch.nn.Parameter(meta(1000))
    launch((4,), parameter, meta(1000), meta(1000), 1000)
    assert len(compiled) == 3


def test_kernels_that_need_scratch_memory_are_launched_by_triton(compiled, monkeypatch):
    launch = add_launcher()
    run = kernels.add_kernel.run

    def run_with_scratch(*args, **options):
        kernel = run(*args, **options)
        kernel.global_scratch_size = 128
        return kernel

    monkeypatch.setattr(kernels.add_kernel, "run", run_with_scratch)
    for _ in range(2):
        add(launch)
    assert len(compiled) == 2


def test_unknown_versions_of_triton_are_left_to_launch(compiled, monkeypatch):
    monkeypatch.setattr(kt, "_TRITON", (4, 0))
    launch = add_launcher()
    for _ in range(2):
        add(launch)
    assert len(compiled) == 2


def test_a_remembered_shape_does_not_excuse_another(compiled):
    launch = add_launcher()
    add(launch)
    good = meta(1000)
    for bad, error in (
        (meta(999), "N is 1000 in x"),
        (meta(2000)[::2], "stride 1"),
        (meta(1000, dtype=torch.float64), "f32"),
    ):
        with pytest.raises(kt.KtError, match=error):
            launch((4,), good, bad, good, 1000)


def test_options_may_follow_from_the_arguments(compiled):
    vector = "f32[N]"
    launch = kt.Launcher(
        kernels.add_kernel,
        {"x": vector, "y": vector, "out": vector},
        BLOCK=lambda args: 1 << (args["n"] - 1).bit_length(),
        num_warps=lambda args: args["BLOCK"] // 128,
    )
    for n in (1001, 1003, 1001, 513, 511, 512):
        add(launch, n)
    assert [options for _, _, options, _ in compiled] == [
        {"BLOCK": 1024, "num_warps": 8},
        {"BLOCK": 512, "num_warps": 4},  # 511
        {"BLOCK": 512, "num_warps": 4},  # 512, a multiple of 16
    ]


def test_new_tensors_are_trusted_once_their_call_is_known(compiled):
    launch = kt.Launcher(
        kernels.add_kernel, {"x": "f32[N]", "y": "f32[N]", "out": "new f32[N]"}, BLOCK=256
    )
    with pytest.raises(kt.KtError, match="N is 1000 in x"):
        launch((4,), meta(1000), meta(1000), meta(10), 1000)
    add(launch)
    launch((4,), meta(1000), meta(1000), meta(10), 1000)
    assert len(compiled) == 1


# -- checks


@pytest.mark.parametrize(
    ("signature", "tensors", "error"),
    [
        (
            MATMUL,
            [meta(4, 8, dtype=torch.float16)] * 3,
            r"matmul_kernel: x must be bf16\[M,K\], got f16\[4,8\] strides \(8, 1\) on meta; ",
        ),
        (MATMUL, [None, None, None], r"x must be bf16\[M,K\], got NoneType None; pass a torch"),
        (MATMUL, [meta(4, dtype=torch.bfloat16)] * 3, "pass a tensor of rank 2"),
        (MATMUL, [meta(4, 8, dtype=torch.bfloat16)] * 3, r"y must be .* K is 8 in x"),
        (MATMUL, [torch.empty(4, 4, dtype=torch.bfloat16)] * 3, "set KT_INTERPRET=1"),
        (
            MATMUL,
            [meta(4, 4, dtype=torch.bfloat16), torch.empty(4, 4, dtype=torch.bfloat16), None],
            "y must be .* on cpu; move it to meta",
        ),
        (
            MATMUL,
            [meta(4, 4, dtype=torch.bfloat16), meta(4, 8, dtype=torch.bfloat16)[:, ::2], None],
            r"y must be .* strides \(8, 2\) .* dim 1 must have stride 1: pass .contiguous\(\)",
        ),
        (
            MATMUL | {"y": "bf16[K,N]{0,1}"},
            [meta(4, 4, dtype=torch.bfloat16)] * 3,
            "dim 0 must have stride 1: pass the transpose of a contiguous tensor",
        ),
        (
            {"x": "f32[M,128]", "y": "f32[_,_]", "out": "f32[]"},
            [meta(4, 64), meta(4, 4), meta()],
            "dim 1 was 128 when the kernel was built; rebuild it for 64",
        ),
        (
            {"x": "f32[M]", "y": "tma f32[M]", "out": "f32[M]"},
            [meta(4), meta(4), meta(4)],
            r"y must be tma f32\[M\], .*; pass a kt.descriptor",
        ),
        (
            {"x": "i8[N]", "y": "i8[N]", "out": "i8[N]"},
            [meta(2**31 + 1, dtype=torch.int8)] * 3,
            r'2147483648 elements .* --config \'\{"index_dtype": "int64"\}\'',
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_advice(signature, tensors, error):
    launch = kt.Launcher(kernels.matmul_kernel, signature, BLOCK_M=16, BLOCK_N=16, BLOCK_K=16)
    with pytest.raises(kt.KtError, match=error):
        launch((1, 1), *tensors, 4, 4, 4, 4, 4, 4)


@pytest.mark.parametrize(
    ("signature", "tensor"),
    [
        ("f32[M,N]{*}", meta(8, 4).T),
        ("f32[M,N]{0,1}", meta(8, 4).T),
        ("f32[M,N]", meta(8, 8)[:, :4]),
        ("f32[M,N]", meta(8, 4).T[:, :1]),  # the stride of a dim of size 1 means nothing
        ("f32[_,4]", meta(8, 4)),
        ("f32[M,N]", meta(0, 4)),
    ],
)
def test_what_fits_is_launched(compiled, signature, tensor):
    specs = {"x": signature, "y": signature, "out": signature}
    kt.Launcher(kernels.add_kernel, specs, BLOCK=4)((1,), tensor, tensor, tensor, 1)
    assert len(compiled) == 1


def test_large_tensors_want_64_bit_offsets(compiled):
    specs = dict.fromkeys(("x", "y", "out"), "i8[N]")
    big = meta(2**31 + 1, dtype=torch.int8)
    kt.Launcher(kernels.add_kernel, specs, index64=True, BLOCK=4)((1,), big, big, big, 1)
    rows = meta(2, 1, dtype=torch.int8).as_strided((2, 4), (2**31 - 3, 1))
    with pytest.raises(kt.KtError, match="int64"):
        kt.Launcher(kernels.add_kernel, dict.fromkeys(specs, "i8[M,N]"), BLOCK=4)(
            (1,), rows, rows, rows, 1
        )


@pytest.mark.parametrize("grid", [(0,), (4, 0), (2, 3, 0)])
def test_an_empty_grid_launches_nothing(compiled, grid):
    add(add_launcher(), grid=grid)
    assert not compiled


@pytest.mark.parametrize(
    "grid", [(2**31,), (1, 65536), (1, 1, 65536), (2**16, 2**15), (-1,), (1, 1, 1, 1)]
)
def test_grids_that_cuda_cannot_launch(compiled, grid):
    with pytest.raises(kt.KtError, match="cannot launch a grid"):
        add(add_launcher(), grid=grid)


@pytest.mark.parametrize("text", ["f16", "f17[M]", "f16[M", "f16(M)", "ptr f16[M]"])
def test_signatures_are_read_strictly(text):
    with pytest.raises(kt.KtError, match="not a kt signature"):
        kt.Launcher(kernels.add_kernel, {"x": text})


def test_an_error_is_both_a_value_and_a_type_error():
    assert issubclass(kt.KtError, ValueError)
    assert issubclass(kt.KtError, TypeError)


def test_calls_that_no_signature_fits_are_described():
    error = kt.no_signature("matmul", x=meta(2, 3), k=4)
    assert "matmul: no kernel was built for these arguments: x=f32[2,3]" in str(error)


# -- TMA


def test_descriptors_need_a_gpu():
    assert not kt.tma_ok(meta(16, 16))
    assert kt.tma_ok()
    with pytest.raises(kt.KtError, match=r"compute capability 9\.0"):
        kt.descriptor(meta(16, 16), (16, 16))


@pytest.mark.parametrize(
    ("tensor", "problem"),
    [
        (torch.empty(16, 16), None),
        (torch.empty(16, 20)[:, :16], None),
        (torch.empty(16, 17)[:, :16], "stride is not a multiple of 16"),
        (torch.empty(260)[1:257].view(16, 16), "address is not a multiple of 16"),
        (torch.empty(16, 32)[:, ::2], "innermost stride"),
        (torch.empty(0, 16), "each size must be"),
        (torch.empty(()), "rank"),
        (torch.empty(1, 1, 1, 1, 1, 16), "rank"),
    ],
)
def test_what_tma_can_address(monkeypatch, tensor, problem):
    monkeypatch.setattr(kt, "INTERPRETING", True)
    kt._tma_fits.clear()
    assert kt.tma_ok(tensor) == (problem is None)
    kt._tma_fits.clear()
    block = (16,) * tensor.dim()
    if problem is None:
        assert kt.descriptor(tensor, block).block_shape == list(block)
    else:
        with pytest.raises(kt.KtError, match=problem):
            kt.descriptor(tensor, block)


@pytest.mark.parametrize(
    ("block", "problem"), [((16,), "rank"), ((16, 24), "power of two"), ((16, 2), "16 bytes")]
)
def test_blocks_that_tma_cannot_move(monkeypatch, block, problem):
    monkeypatch.setattr(kt, "INTERPRETING", True)
    with pytest.raises(kt.KtError, match=problem):
        kt.descriptor(torch.empty(32, 32), block)
