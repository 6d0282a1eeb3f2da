"""A target with 8x8 matrices, and kernels planned for it."""

from __future__ import annotations

from transpile.frontend import FrontendOptions, SourceFile, load
from transpile.ir import ir
from transpile.ir.dtypes import BF16, F8E4M3, F8E5M2, F16, F32
from transpile.ir.sizes import Size
from transpile.ir.walk import walk
from transpile.passes.pipeline import prepare
from transpile.passes.schedule import Schedule, resolve
from transpile.thread.dot_layout import MatrixMap, MatrixUnit, Part
from transpile.thread.dot_plan import Products, plan_products
from transpile.thread.limits import Limits

#: 32 lanes hold two neighbouring elements of an 8x8 matrix each
EIGHT = MatrixMap(
    rows=(Part(2, 4, 16), Part(4, 1, 2)), cols=(Part(2, 4, 8), Part(2, 2, 1), Part(2, 1))
)
UNIT = MatrixUnit(
    EIGHT, EIGHT, EIGHT,
    types=frozenset({(F16, F32), (BF16, F32), (F32, F32)}),
    widened=((F8E4M3, F16), (F8E5M2, F16)),
)  # fmt: skip

_HEADER = "import helion\nimport helion.language as hl\nimport torch\n\n@helion.kernel()"


def prepared(source: str, signature: str, blocks: list[int]) -> tuple[ir.Kernel, Schedule]:
    """The kernel in ``source`` (without imports and decorator), ready for lowering."""
    args = dict(part.split("=", 1) for part in signature.split())
    options = FrontendOptions(args=args, config={"block_sizes": blocks, "num_warps": 4})
    result = load(SourceFile("kernel.py", _HEADER + source, ""), options)
    assert not result.diagnostics, result.diagnostics
    (kernel,) = result.kernels
    schedule = resolve(kernel)
    return prepare(kernel, schedule), schedule


def planned(
    source: str, signature: str, blocks: list[int], groups: int | None = 4
) -> tuple[Products, list[ir.Value]]:
    """The plan of a kernel's products for a number of SIMD groups, and the values of its phase."""
    kernel, schedule = prepared(source, signature, blocks)
    body = kernel.phases[0].body

    def extent(size: Size) -> int:
        return size.substitute(schedule.blocks).as_int() or 1

    plan = plan_products(body, extent, groups, Limits("test", matrices=UNIT))
    return plan, [r for op in walk(body) for r in op.results]
