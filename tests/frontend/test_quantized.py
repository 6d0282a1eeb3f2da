"""Packed 4-bit floats, against the table of their values."""

from __future__ import annotations

import pytest
import torch

from tests.frontend.lower import interpret, kernels, lower

VALUES = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
TABLE = torch.tensor([*VALUES, *(-v for v in VALUES)])

UNPACK = """
@helion.kernel
def f(packed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    n = packed.size(0)
    low = torch.empty([n], dtype=torch.float32, device=packed.device)
    high = torch.empty([n], dtype=torch.float32, device=packed.device)
    for tile in hl.tile(n):
        lo, hi = hl.float4_e2m1fn_x2_to_float32(packed[tile])
        low[tile] = lo
        high[tile] = hi
    return low, high
"""

LOAD16 = """
@helion.kernel
def f(storage: torch.Tensor) -> torch.Tensor:
    n = storage.size(0)
    out = torch.empty([n, 16], dtype=torch.float16, device=storage.device)
    for tile in hl.tile(n):
        values = hl.{name}(storage, tile.index, extra_mask=tile.index < n)
        for i in hl.static_range(16):
            out[tile, i] = values[i]
    return out
"""


def test_every_byte_unpacks_to_its_two_numbers() -> None:
    packed = torch.arange(256, dtype=torch.uint8)
    low, high = interpret(UNPACK, packed.view(torch.float4_e2m1fn_x2), block=32)
    assert torch.equal(low, TABLE[packed.long() & 15])
    assert torch.equal(high, TABLE[packed.long() >> 4])


def test_the_packed_type_is_inferred_and_read_as_bytes() -> None:
    kernel = kernels(UNPACK)[0]
    assert kernel.signature == "packed=f4e2m1x2[packed_0]"
    packed = kernel.tensors[0]
    assert (packed.host, packed.dtype.name) == ("packed.view(torch.uint8)", "u8")


def test_groups_of_sixteen() -> None:
    bytes_ = torch.randint(0, 256, (5, 8), generator=torch.Generator().manual_seed(0))
    got = interpret(LOAD16.format(name="load_float4_e2m1fn_x16_to_float16"), bytes_.to(torch.uint8))
    want = torch.stack([TABLE[bytes_ & 15], TABLE[bytes_ >> 4]], -1).reshape(5, 16)
    assert torch.equal(got, want.half())


def test_groups_of_sixteen_bf16() -> None:
    values = torch.randn(5, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    got = interpret(LOAD16.format(name="load_bfloat16_x16_to_float16"), values)
    assert torch.equal(got, values.half())


@pytest.mark.parametrize("dtype", ["f32", "i32"])
def test_other_types_are_refused(dtype: str) -> None:
    result = lower(UNPACK, args={"packed": f"{dtype}[N]"})
    assert [d.code for d in result.diagnostics if d.severity == "error"] == ["KT0401"]
