"""What a kernel's parameters can be, by annotation and default."""

from __future__ import annotations

from typing import Any

from transpile.frontend.values import Function, HostNumber, Known
from transpile.ir.dtypes import BOOL, F32, I64, DType
from transpile.ir.sizes import Size, Sym

NO_DEFAULT = object()
LITERALS = (bool, int, float, str, DType, type(None))  # values a signature can state
SCALARS = {"int": I64, "float": F32, "bool": BOOL}  # run-time numbers by annotation


class Present:
    """Stands for an optional tensor that is given; rank and dtype are inferred by lowering."""

    def __str__(self) -> str:
        return "tensor"


def bare(annotation: str) -> str:
    """The type without module, arguments and alternatives: ``torch.Tensor | None`` is Tensor."""
    return annotation.replace("torch.", "").split("[")[0].split("|")[0].strip()


def is_function(value: Any) -> bool:
    """True for functions of the source file or of a known module."""
    return isinstance(value, (Function, Known))


def is_plain(value: Any) -> bool:
    """True for compile-time values that are data, not code."""
    if isinstance(value, (tuple, list)):
        return all(is_plain(v) for v in value)
    return value is None or isinstance(value, (bool, int, float, str, DType))


def host_scalar(name: str, dtype: DType) -> Size | HostNumber:
    """An integer parameter is a symbolic size, any other a host number."""
    if dtype.is_int:
        return Size.of(Sym(name, "scalar"))
    return HostNumber(dtype, name)
