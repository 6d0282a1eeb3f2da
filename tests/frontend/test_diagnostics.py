"""Every mistake in a kernel has its code, at its place. Lines count from the snippet's first."""

from __future__ import annotations

import pytest

from tests.frontend.lower import FIRST_LINE, lower

DEVICE = """
def recurse(v):
    return recurse(v) + 1

def early(v):
    if v.sum() > 0:
        return v
    return -v

@helion.kernel
def f(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    m, n = x.size()
    out = torch.empty_like(x)
    for tile_m, tile_n in hl.tile([m, n]):
{}
    return out
"""
DEVICE_LINE = 13

DEVICE_CASES = [
    # statement(s) of the device loop, code, line in the statements, column
    ("out[tile_m, tile_n] = undefined", "KT0403", 1, 31),
    ("out[tile_m, tile_n] = torch.linalg_norm(x[tile_m, tile_n])", "KT0418", 1, 31),
    ("out[tile_m, tile_n] = x[tile_m, tile_n].svd()", "KT0418", 1, 31),
    ("out[tile_m, tile_n] = x", "KT0406", 1, 9),
    ("out[tile_m, tile_n] = x + 1", "KT0406", 1, 31),
    ("out[tile_m, tile_n] = torch.exp(x)", "KT0406", 1, 31),
    ("out[tile_m, tile_n] = x[tile_m]", "KT0506", 1, 31),
    ("out[tile_m, tile_n] = x[tile_m, tile_n, tile_n]", "KT0506", 1, 31),
    ("out[tile_m, tile_n] = x[tile_m, 'a']", "KT0507", 1, 31),
    ("out[tile_m, tile_n] = x[tile_m, ::2]", "KT0508", 1, 31),
    ("out[tile_m, tile_n] = x[tile_m, tile_n] + x[tile_m, :][:, None]", "KT0502", 1, 31),
    ("out[tile_m, tile_n] = x[tile_m, tile_n].sum(2)", "KT0503", 1, 31),
    ("out[tile_m, tile_n] = x[tile_m, tile_n] @ y[tile_m, tile_n]", "KT0505", 1, 31),
    (
        "out[tile_m, tile_n] = torch.matmul(x[tile_m, tile_n], y[tile_m, tile_n][0])",
        "KT0510",
        1,
        63,
    ),
    ("out[tile_m, tile_n] = x[tile_m, tile_n].reshape([tile_m, 3])", "KT0512", 1, 31),
    ("v = x[tile_m, tile_n]\nv[0] = 1.0", "KT0419", 2, 9),
    ("return x[tile_m, tile_n]", "KT0402", 1, 9),
    ("break", "KT0402", 1, 9),
    ("continue", "KT0402", 1, 9),
    ("with x:\n    pass", "KT0402", 1, 9),
    ("try:\n    pass\nfinally:\n    pass", "KT0402", 1, 9),
    ("a = b = x[tile_m, tile_n]", "KT0402", 1, 9),
    ("if x[tile_m, tile_n] > 0:\n    pass", "KT0409", 1, 9),
    ("v = x[tile_m, tile_n] if tile_m.begin > 0 else x[tile_m, tile_n]", "KT0402", 1, 13),
    ("for t in hl.tile(n):\n    v = x[tile_m, t]\nout[tile_m, tile_n] = v", "KT0404", 3, 31),
    ("for t in hl.tile(n):\n    pass\nout[tile_m, t] = 0.0", "KT0404", 3, 21),
    ("for t in hl.tile(tile_m):\n    pass", "KT0423", 1, 9),
    ("for t in hl.tile(n, block_size=48):\n    pass", "KT0424", 1, 9),
    ("for t in hl.static_range(n):\n    pass", "KT0422", 1, 18),
    ("for t in x:\n    pass", "KT0402", 1, 9),
    ("v = recurse(x[tile_m, tile_n])", "KT0411", -11, 12),
    ("v = early(x[tile_m, tile_n])", "KT0402", -7, 9),
    ("v = hl.zeros([x])", "KT0511", 1, 13),
    ("v = torch.zeros([tile_m, x.sum()])", "KT0406", 1, 34),
    ("v = tile_m.size", "KT0416", 1, 13),
    ("v = hl.specialize(n)\nw = hl.register_block_size(n)", "KT0417", 2, 13),
    ("v = torch.exp(x[tile_m, tile_n], 1, 2)", "KT0412", 1, 13),
    ("hl.store(3, [tile_m], 1.0)", "KT0413", 1, 9),
    ("p, q, r = 1, 2", "KT0410", 1, 9),
    ("v = 1 // 0", "KT0407", 1, 13),
    ("assert 1 == 2", "KT0420", 1, 9),
]


@pytest.mark.parametrize(("statements", "code", "line", "col"), DEVICE_CASES)
def test_device(statements: str, code: str, line: int, col: int) -> None:
    indented = "\n".join("        " + one for one in statements.splitlines())
    found = [d for d in lower(DEVICE.format(indented)).diagnostics if d.severity == "error"]
    assert [d.code for d in found] == [code], found
    span = found[0].span
    assert span is not None
    assert (span.line - FIRST_LINE - DEVICE_LINE + 1, span.col) == (line, col), found[0].message
    assert found[0].message


MODULE_CASES = [
    ("def f(x):\n    return x\n", {}, "KT0102", 1 - FIRST_LINE + 1, 1),
    ("@helion.kernel\ndef f(x):\n    return x\n", {}, "KT0103", 2, 5),
    ("@helion.kernel\ndef f(x:\n", {}, "KT0101", 2, 1),
    (
        "@helion.kernel\ndef f(x: torch.Tensor, k: hl.constexpr):\n    for t in hl.tile(x.size(0)):\n        x[t] = k\n",
        {}, "KT0224", 2, 24,
    ),
    (
        "@helion.kernel\ndef f(x: torch.Tensor):\n    for t in hl.tile(x.size(0)):\n        x[t] = 0\n",
        {"args": {"y": "f32[N]"}}, "KT0222", 2, 5,
    ),
    (
        "@helion.kernel\ndef f(x: torch.Tensor):\n    assert x.size(0) == 4\n    for t in hl.tile(x.size(0)):\n        x[t] = 0\n",
        {"args": {"x": "f32[5]"}}, "KT0303", 3, 5,
    ),
    (
        "@helion.kernel\ndef f(x: torch.Tensor):\n    m, n = x.size()\n    for t in hl.tile(m):\n        x[t, :] = 0\n",
        {"args": {"x": "f32[M,N,K]"}}, "KT0410", 3, 5,
    ),
    (
        "@helion.kernel\ndef f(x: torch.Tensor):\n    k = x.max()\n    for t in hl.tile(k):\n        x[t] = 0\n",
        {}, "KT0306", 4, 5,
    ),
    (
        "def make(block):\n    @helion.kernel\n    def f(x: torch.Tensor):\n        for t in hl.tile(x.size(0), block_size=block):\n            x[t] = 0\n    return f\n",
        {}, "KT0224", 3, 9,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("source", "options", "code", "line", "col"), MODULE_CASES)
def test_module(source: str, options: dict, code: str, line: int, col: int) -> None:
    found = [d for d in lower(source, **options).diagnostics if d.severity == "error"]
    assert [d.code for d in found] == [code], found
    span = found[0].span
    assert span is not None
    assert (span.line - FIRST_LINE + 1, span.col) == (line, col), found[0].message


def test_all_kernels_of_a_file_report_their_problems() -> None:
    one = "@helion.kernel\ndef {}(x: torch.Tensor):\n    for t in hl.tile(x.size(0)):\n        x[t] = nowhere\n"
    found = lower(one.format("f") + one.format("g")).diagnostics
    assert [d.code for d in found if d.severity == "error"] == ["KT0403", "KT0403"]
