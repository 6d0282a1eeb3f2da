"""Python builtins on compile-time, host and device values."""

from __future__ import annotations

from typing import Any

import libcst as cst

from transpile.frontend.evaluator import Evaluator
from transpile.frontend.operators import UNKNOWN, device_number
from transpile.frontend.symbolic import HostShape, simplified
from transpile.frontend.values import (
    Builtin,
    HostNumber,
    HostTensor,
    Known,
    Opaque,
    Scalar,
)
from transpile.ir import ir
from transpile.ir.dtypes import BOOL, F32, I64
from transpile.ir.sizes import Size


class Builtins(Evaluator):
    """What ``min``, ``len``, ``float``, ``zip`` and their like mean."""

    # -- builtins --------------------------------------------------------------------------

    def builtin(self, name: str, args: list[Any], kwargs: dict[str, Any], node: cst.CSTNode) -> Any:
        if name in ("min", "max"):
            return self._extreme(name, args, node)
        if name == "len" and args:
            return self._len(args[0], node)
        if name == "float" and args:
            return self._float(args[0])
        if name == "int" and args:
            return self._int(args[0], node)
        if name in ("bool", "isinstance", "any", "all"):
            return self._truthy(name, args)
        if name == "abs" and args:
            x = args[0]
            return (
                self.b.arith("abs", x)
                if device_number(x)
                else abs(x)
                if isinstance(x, (int, float))
                else UNKNOWN
            )
        if name == "print":
            return None
        if name == "slice":
            return slice(*args)
        if name == "range":
            return (
                range(*args)
                if all(isinstance(a, int) for a in args)
                else self.unsupported(node, "range")
            )
        items = [self.iterate(a) for a in args if not isinstance(a, int)]
        if (
            name in ("zip", "enumerate", "reversed", "tuple", "list", "sum", "sorted")
            and None not in items
        ):
            return self._sequence(name, args, items)
        return self.unsupported(node, f"a call of {name}()")

    def _sequence(self, name: str, args: list[Any], items: list[Any]) -> Any:
        if name == "zip":
            return [tuple(row) for row in zip(*items, strict=False)]
        if name == "enumerate":
            return [(i, x) for i, x in enumerate(items[0])]
        if name == "reversed":
            return list(reversed(items[0]))
        if name == "sum":
            total: Any = 0
            for x in items[0]:
                total = self.binary(cst.Add, total, x)
            return total
        if name == "sorted":
            return sorted(items[0])
        got = items[0] if items else []
        return tuple(got) if name == "tuple" else list(got)

    def _extreme(self, name: str, args: list[Any], node: cst.CSTNode) -> Any:
        items = list(args[0]) if len(args) == 1 and isinstance(args[0], (list, tuple)) else args
        items = [self.tile_number(i) for i in items]
        if all(isinstance(i, (int, float)) for i in items):
            return min(items) if name == "min" else max(items)
        if all(isinstance(i, (int, Size)) for i in items):
            total = Size.of(items[0])
            for item in items[1:]:
                total = total.min(item) if name == "min" else total.max(item)
            return simplified(total)
        if not self.on_device:
            return Opaque(f"{name}()")
        result = items[0]
        for item in items[1:]:
            result = self.b.arith("minimum" if name == "min" else "maximum", result, item)
        return result

    def _len(self, x: Any, node: cst.CSTNode) -> Any:
        if isinstance(x, HostShape):
            return x.tensor.rank
        if isinstance(x, (tuple, list, dict, str)):
            return len(x)
        if isinstance(x, HostTensor):
            return simplified(x.dims[0])
        return self.unsupported(node, "len() of an unknown sequence")

    def _float(self, x: Any) -> Any:
        if isinstance(x, (int, float, str)):
            return float(x)
        if isinstance(x, (ir.Value, Scalar)):
            value = self.b.scalar(x)
            return Scalar(self.b.cast(value, F32))
        if isinstance(x, Size) and self.on_device:
            return Scalar(self.b.cast(self.b.size(x), F32))
        return HostNumber(F32)

    def _int(self, x: Any, node: cst.CSTNode) -> Any:
        if isinstance(x, (int, float)):
            return int(x)
        if isinstance(x, Size):
            return x
        if isinstance(x, (ir.Value, Scalar)):
            return Scalar(self.b.cast(self.b.scalar(x), self.b.index_dtype))
        return HostNumber(I64) if isinstance(x, (HostNumber, HostTensor)) else Opaque("int()")

    def _truthy(self, name: str, args: list[Any]) -> Any:
        if name == "isinstance":
            return self._isinstance(args)
        if name == "bool":
            truth = self.truth(args[0]) if args else False
            if truth is not None:
                return truth
            return Scalar(self.condition(args[0])) if self.on_device else HostNumber(BOOL)
        items = self.iterate(args[0])
        truths = [None] if items is None else [self.truth(i) for i in items]
        if None in truths:
            return UNKNOWN
        return any(truths) if name == "any" else all(truths)

    def _isinstance(self, args: list[Any]) -> Any:
        value, kind = args
        if isinstance(kind, Known) and kind.name in ("torch.Tensor", "torch.tensor"):
            return isinstance(value, (HostTensor, ir.Value))
        python = {"int": (int, Size), "float": (float, HostNumber), "bool": (bool,), "str": (str,)}
        if isinstance(kind, Builtin) and kind.name in python:
            return isinstance(value, python[kind.name])
        return UNKNOWN
