"""Thread IR kernels written by hand, and their Metal text."""

from __future__ import annotations

from transpile.emitters.msl.host import host_sizes
from transpile.emitters.msl.kernel import MetalKernel, print_kernel
from transpile.ir import ir as tile
from transpile.ir.dtypes import BOOL, F32, DType
from transpile.ir.sizes import ONE, Size, Sym
from transpile.passes.schedule import Schedule
from transpile.thread import ir

N = Size.of(Sym("N", "dim"))
M = Size.of(Sym("M", "dim"))
TID = ir.Id("thread")


def tensor(name: str, dtype: DType, *shape: Size) -> tile.Tensor:
    strides = [ONE]
    for size in reversed(shape[1:]):
        strides.append(strides[-1] * size)
    return tile.Tensor(name, dtype, shape, tuple(reversed(strides)), name, name)


def apply(name: str, *args: ir.Expr, dtype: DType | None = None) -> ir.Apply:
    predicates = {"lt", "le", "gt", "ge", "eq", "ne", "land", "lor", "lnot", "isnan"}
    return ir.Apply(name, args, dtype or (BOOL if name in predicates else args[-1].dtype))


def number(value: float) -> ir.Const:
    return ir.Const(value, F32)


def source(*tensors: tile.Tensor, scalars: tuple[tile.Scalar, ...] = ()) -> tile.Kernel:
    """A Tile IR kernel with these arguments and nothing else."""
    return tile.Kernel(
        "k", (), "x=f32[N]", None, None, (), (), tensors, scalars, (), ((N, "n"), (M, "m")),
    )  # fmt: skip


def printed(
    body: ir.Body,
    *tensors: tile.Tensor,
    threads: int = 64,
    shared: tuple[ir.SharedBuffer, ...] = (),
    scalars: tuple[tile.Scalar, ...] = (),
    comments: dict[int, str] | None = None,
) -> MetalKernel:
    kernel = ir.Kernel("k", tensors, scalars, (M,), threads, 32, shared, body)
    outer = source(*tensors, scalars=scalars)
    sizes = host_sizes(outer, Schedule({}, {}))
    return print_kernel(outer, kernel, sizes, comments or {})


def body_of(body: ir.Body, *tensors: tile.Tensor, **options: object) -> list[str]:
    """The lines between the braces, without their common indentation."""
    return [line[2:] for line in printed(body, *tensors, **options).body]  # type: ignore[arg-type]
