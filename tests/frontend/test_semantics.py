"""Device constructs of the Helion dialect mean what torch means, on ragged shapes."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from tests.frontend.lower import interpret

X = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
V = torch.randn(11, generator=torch.Generator().manual_seed(1))

UNARY = """
@helion.kernel
def f(x: torch.Tensor) -> torch.Tensor:
    out = torch.empty_like(x)
    for tile in hl.tile(x.size()):
        out[tile] = {}
    return out
"""


@pytest.mark.parametrize(
    ("device", "reference"),
    [
        ("torch.exp(x[tile])", torch.exp),
        ("x[tile].sigmoid() * 2 - 1", lambda x: x.sigmoid() * 2 - 1),
        ("F.silu(x[tile])", F.silu),
        ("F.gelu(x[tile])", F.gelu),
        ("F.gelu(x[tile], approximate='tanh')", lambda x: F.gelu(x, approximate="tanh")),
        ("torch.clamp(x[tile], min=-0.5, max=0.5)", lambda x: x.clamp(-0.5, 0.5)),
        ("torch.where(x[tile] > 0, x[tile], -x[tile])", torch.abs),
        ("x[tile] ** 2 + x[tile] ** 3", lambda x: x**2 + x**3),
        ("x[tile].abs() ** 0.5", lambda x: x.abs() ** 0.5),
        ("torch.relu(x[tile]) + 1 // 2", torch.relu),
        ("(x[tile] * 10).to(torch.int32) // 3 % 4", lambda x: ((x * 10).int() // 3 % 4).float()),
        ("F.softplus(x[tile])", F.softplus),
        ("torch.lerp(x[tile], x[tile] * 2, 0.25)", lambda x: torch.lerp(x, x * 2, 0.25)),
        (
            "(x[tile] > 0) & ~(x[tile] > 1) | (x[tile] < -1)",
            lambda x: ((x > 0) & ~(x > 1) | (x < -1)).float(),
        ),
    ],
)
def test_elementwise(device: str, reference: object) -> None:
    torch.testing.assert_close(interpret(UNARY.format(device), X), reference(X))


ROWS = """
@helion.kernel
def f(x: torch.Tensor) -> torch.Tensor:
    m, n = x.size()
    out = torch.empty([m], dtype=x.dtype, device=x.device)
    for tile_m in hl.tile(m):
        {}
    return out
"""


@pytest.mark.parametrize(
    ("device", "reference"),
    [
        ("out[tile_m] = x[tile_m, :].sum(-1)", lambda x: x.sum(-1)),
        ("out[tile_m] = torch.amax(x[tile_m, :], dim=1)", lambda x: x.amax(1)),
        ("out[tile_m] = x[tile_m, :].mean(-1)", lambda x: x.mean(-1)),
        ("out[tile_m] = torch.var(x[tile_m, :], dim=-1)", lambda x: x.var(-1)),
        ("out[tile_m] = torch.logsumexp(x[tile_m, :], dim=-1)", lambda x: x.logsumexp(-1)),
        (
            "out[tile_m] = F.softmax(x[tile_m, :], dim=-1).amax(-1)",
            lambda x: x.softmax(-1).amax(-1),
        ),
        (
            "out[tile_m] = torch.argmax(x[tile_m, :], dim=-1).to(x.dtype)",
            lambda x: x.argmax(-1).float(),
        ),
        (
            "out[tile_m] = x[tile_m, 0] + x[tile_m, n - 1] + x[tile_m, -2]",
            lambda x: x[:, 0] + x[:, -1] + x[:, -2],
        ),
        ("out[tile_m] = torch.cumsum(x[tile_m, :], dim=1).sum(-1)", lambda x: x.cumsum(1).sum(-1)),
        (
            "out[tile_m] = hl.reduce(lambda a, b: torch.maximum(a, b), x[tile_m, :], dim=1, other=float('-inf'))",
            lambda x: x.amax(1),
        ),
        (
            "out[tile_m] = hl.associative_scan(lambda a, b: a + b, x[tile_m, :], dim=1).amax(-1)",
            lambda x: x.cumsum(1).amax(-1),
        ),
    ],
)
def test_rows(device: str, reference: object) -> None:
    torch.testing.assert_close(interpret(ROWS.format(device), X), reference(X))


def test_loop_carried_accumulator_of_a_python_number() -> None:
    source = """
    @helion.kernel
    def f(x: torch.Tensor) -> torch.Tensor:
        m, n = x.size()
        out = torch.empty([m], dtype=x.dtype, device=x.device)
        for tile_m in hl.tile(m):
            total = 0.0
            count = 0
            for tile_n in hl.tile(n):
                total = total + x[tile_m, tile_n].sum(-1)
                count += 1
            out[tile_m] = total + count
        return out
    """
    torch.testing.assert_close(interpret(source, X), X.sum(-1) + 2)


def test_run_time_if_merges_both_branches() -> None:
    source = """
    @helion.kernel
    def f(x: torch.Tensor, k: int) -> torch.Tensor:
        n = x.size(0)
        out = torch.empty_like(x)
        for tile in hl.tile(n):
            v = x[tile]
            if tile.begin >= k:
                v = v * 2
            elif tile.id == 0:
                v = v + 1
            else:
                v = -v
            out[tile] = v
        return out
    """
    expected = torch.cat([V[:4] + 1, -V[4:8], V[8:] * 2])
    torch.testing.assert_close(interpret(source, V, 8), expected)


def test_while_carries_values() -> None:
    source = """
    @helion.kernel
    def f(x: torch.Tensor, steps: int) -> torch.Tensor:
        n = x.size(0)
        out = torch.empty_like(x)
        for tile in hl.tile(n):
            v = x[tile]
            i = 0
            while i < steps:
                v = v * 0.5
                i = i + 1
            out[tile] = v
        return out
    """
    torch.testing.assert_close(interpret(source, V, 3), V / 8)


def test_closures_lambdas_zip_enumerate_and_static_range() -> None:
    source = """
    def scale_by(factor):
        def apply(v):
            return v * factor
        return apply

    @helion.kernel
    def f(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        n = x.size(0)
        out = torch.empty_like(x)
        double = lambda v: v * 2
        for tile in hl.tile(n):
            acc = hl.zeros([tile], dtype=x.dtype)
            for i, (t, weight) in enumerate(zip((x, y), [1.0, 3.0])):
                acc = acc + t[tile] * weight + i
            for j in hl.static_range(3):
                acc += scale_by(j)(x[tile])
            out[tile] = double(acc)
        return out
    """
    y = V.flip(0)
    torch.testing.assert_close(interpret(source, V, y), 2 * (V + 3 * y + 1 + 3 * V))


def test_index_tensors_form_a_cartesian_product() -> None:
    source = """
    @helion.kernel
    def f(x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        b = rows.size(0)
        n = x.size(1)
        out = torch.empty([b, n], dtype=x.dtype, device=x.device)
        for tile_b, tile_n in hl.tile([b, n]):
            out[tile_b, tile_n] = x[rows[tile_b], tile_n.index]
        return out
    """
    rows = torch.tensor([6, 0, 3, 3, 1])
    torch.testing.assert_close(interpret(source, X, rows), X[rows])


def test_tile_plus_offset_and_dynamic_slice() -> None:
    source = """
    @helion.kernel
    def f(x: torch.Tensor) -> torch.Tensor:
        n = x.size(0)
        half = n // 2
        out = torch.zeros([half], dtype=x.dtype, device=x.device)
        for tile in hl.tile(half):
            out[tile] = x[tile] + x[tile + half] + x[tile.index + half]
        return out
    """
    torch.testing.assert_close(interpret(source, V[:10]), V[:5] + 2 * V[5:10])


def test_grid_indices_drop_dimensions() -> None:
    source = """
    @helion.kernel
    def f(x: torch.Tensor) -> torch.Tensor:
        m, n = x.size()
        out = torch.empty([n, m], dtype=x.dtype, device=x.device)
        for i in hl.grid(m):
            for tile in hl.tile(n):
                out[tile, i] = x[i, tile]
        return out
    """
    torch.testing.assert_close(interpret(source, X), X.t().contiguous())


def test_store_then_load_of_one_tensor_has_a_barrier_between() -> None:
    from tests.frontend.lower import kernels
    from transpile.ir import ir
    from transpile.ir.walk import walk

    source = """
    @helion.kernel
    def f(x: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(x)
        for tile in hl.tile(x.size(0)):
            out[tile] = x[tile] * 2
            out[tile] = out[tile] + 1
        return out
    """
    kinds = [type(op) for op in walk(kernels(source)[0].phases[0].body)]
    assert kinds.index(ir.Store) < kinds.index(ir.Barrier)
    torch.testing.assert_close(interpret(source, V), V * 2 + 1)


def test_jagged_tile_sums_each_row_to_its_own_length() -> None:
    source = """
    @helion.kernel
    def f(data: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        rows = offsets.size(0) - 1
        out = torch.empty([rows], dtype=data.dtype, device=data.device)
        for tile in hl.tile(rows):
            starts = offsets[tile]
            lengths = offsets[tile.index + 1] - starts
            total = hl.zeros([tile], dtype=data.dtype)
            for k in hl.jagged_tile(lengths):
                total = total + data[starts[:, None] + k.index[None, :]].exp().sum(1)
            out[tile] = total
        return out
    """
    offsets = torch.tensor([0, 3, 3, 8, 9, 11])
    expected = torch.stack([V[a:b].exp().sum() for a, b in itertools.pairwise(offsets)])
    torch.testing.assert_close(interpret(source, V, offsets), expected)


def test_two_phases_run_in_order() -> None:
    source = """
    @helion.kernel
    def f(x: torch.Tensor) -> torch.Tensor:
        m, n = x.size()
        part = torch.empty([m], dtype=x.dtype, device=x.device)
        out = torch.empty_like(x)
        for tile_m in hl.tile(m):
            part[tile_m] = x[tile_m, :].sum(-1)
        hl.barrier()
        for tile_m, tile_n in hl.tile([m, n]):
            out[tile_m, tile_n] = x[tile_m, tile_n] / part[tile_m][:, None]
        return out
    """
    torch.testing.assert_close(interpret(source, X), X / X.sum(-1, keepdim=True))


@pytest.mark.parametrize("other", [True, False])
def test_constexpr_flags_choose_a_branch(other: bool) -> None:
    source = """
    @helion.kernel
    def f(x: torch.Tensor, negate: hl.constexpr = False) -> torch.Tensor:
        out = torch.empty_like(x)
        for tile in hl.tile(x.size(0)):
            if negate:
                out[tile] = -x[tile]
            else:
                out[tile] = x[tile]
        return out
    """
    sets = {"negate": str(other)}
    torch.testing.assert_close(interpret(source, V, sets=sets), -V if other else V)


def test_a_slice_beyond_the_tensor_gives_zeros() -> None:
    source = """
    @helion.kernel
    def f(x: torch.Tensor, shift: int) -> torch.Tensor:
        out = torch.empty([x.size(0), 8], dtype=x.dtype, device=x.device)
        for tile in hl.tile(x.size(0)):
            for i in hl.grid(1):
                start = i + shift
                out[tile, :] = x[tile, start : start + 8]
        return out
    """
    x = torch.arange(30.0).reshape(3, 10)
    want = torch.zeros(3, 8)
    want[:, :6] = x[:, 4:]
    assert torch.equal(interpret(source, x, 4), want)


def test_a_seed_keeps_its_64_bits() -> None:
    source = """
    @helion.kernel
    def f(x: torch.Tensor, seed: int) -> torch.Tensor:
        out = torch.empty_like(x)
        for tile in hl.tile(x.size(0)):
            out[tile] = x[tile] + hl.rand([tile], seed=seed)
        return out
    """
    x = torch.zeros(16)
    small, large = interpret(source, x, 5), interpret(source, x, 5 + 2**40)
    assert not torch.equal(small, large)


def test_a_matrix_times_a_batch_of_matrices() -> None:
    source = """
    @helion.kernel
    def f(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        m, k = x.size()
        b, _, n = w.size()
        out = torch.empty([b, m, n], dtype=x.dtype, device=x.device)
        for tile_b, tile_m, tile_n in hl.tile([b, m, n]):
            acc = hl.zeros([tile_b, tile_m, tile_n], dtype=torch.float32)
            for tile_k in hl.tile(k):
                acc = hl.dot(x[tile_m, tile_k], w[tile_b, tile_k, tile_n], acc=acc)
            out[tile_b, tile_m, tile_n] = acc
        return out
    """
    w = torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(interpret(source, X, w), X @ w)
