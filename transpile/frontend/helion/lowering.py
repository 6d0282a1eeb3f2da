"""The evaluator of the Helion dialect: what names, attributes and calls mean in its two modes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import libcst as cst

from transpile.frontend import torch_device, torch_host
from transpile.frontend.builder import Builder, describe
from transpile.frontend.helion import language
from transpile.frontend.helion.blocks import BlockTable
from transpile.frontend.helion.builtins import Builtins
from transpile.frontend.helion.memory import Memory
from transpile.frontend.operators import device_number
from transpile.frontend.source import ParsedSource
from transpile.frontend.symbolic import HostShape, simplified
from transpile.frontend.values import (
    Builtin,
    Device,
    Function,
    HostNumber,
    HostTensor,
    Known,
    Method,
    ModuleRef,
    Opaque,
    Scalar,
    Tile,
)
from transpile.ir import ir
from transpile.ir.diagnostics import error
from transpile.ir.dtypes import BY_TORCH, I64, DType
from transpile.ir.sizes import Size

# Dtypes torch has and kt has not.
OTHER_DTYPES = frozenset(
    {"cdouble", "cfloat", "chalf", "complex128", "complex32", "complex64", "qint32", "qint8",
     "quint8"}
)  # fmt: skip

CONSTANTS: dict[str, Any] = {
    "math.pi": math.pi,
    "math.inf": math.inf,
    "math.e": math.e,
    "math.nan": math.nan,
    "torch.inf": math.inf,
    "torch.pi": math.pi,
    "torch.nan": math.nan,
    "torch.e": math.e,
}


class Lowering(Builtins, Memory):
    """Evaluates one kernel's host program and device code."""

    def __init__(self, source: ParsedSource, builder: Builder, config: dict[str, Any]) -> None:
        super().__init__(source, builder)
        self.config = config
        self.blocks = BlockTable()
        self.tunables: dict[str, Any] = {}
        self.dot_precision = "tf32"
        self.node: cst.CSTNode = source.tree  # the call being evaluated
        self.target_hint = "block"  # variable the current statement assigns
        self.tensors: dict[HostTensor, ir.Tensor] = {}
        self.register_tensor: Callable[[HostTensor], ir.Tensor] = self._no_register
        self.stored: set[ir.Tensor] = set()
        self.views: dict[tuple[HostTensor, DType, bool], HostTensor] = {}
        self.assumed: set[str] = set()  # parameters whose type nobody stated

    def _no_register(self, tensor: HostTensor) -> ir.Tensor:
        raise AssertionError("no kernel is being lowered")

    # -- attributes ------------------------------------------------------------------------

    def attribute(self, owner: Any, name: str) -> Any:
        if isinstance(owner, (ModuleRef, Known)):
            return self.resolve(f"{owner.name}.{name}")
        if isinstance(owner, Tile):
            return self._tile_attribute(owner, name)
        if isinstance(owner, HostTensor):
            value = torch_host.attribute(self, owner, name)
            return Method(owner, name) if value is None else value
        if isinstance(owner, ir.Value):
            return self._value_attribute(owner, name)
        if isinstance(owner, DType):
            return self._dtype_attribute(owner, name)
        if isinstance(owner, (Device, Function)):
            return Opaque(f"attribute {name}")
        return super().attribute(owner, name)

    def resolve(self, name: str) -> Any:
        """A dotted library name: a dtype, a constant, or a known function."""
        if name.startswith("torch."):
            short = name[len("torch.") :]
            if short in BY_TORCH:
                return BY_TORCH[short]
            if short in OTHER_DTYPES:
                if self.on_device:
                    self.fail("KT0517", f"dtype {name}", remedy="use a real dtype")
                return Opaque(f"dtype {name}")
        if name in CONSTANTS:
            return CONSTANTS[name]
        return Known(name)

    def _tile_attribute(self, tile: Tile, name: str) -> Any:
        index = self.b.index_dtype
        if name == "index":
            return self.b.emit(
                ir.TileIndex(results=(self.b.new(index, (tile.size,)),), tile=tile.value)
            )
        if name == "block_size":
            return tile.size
        if name in ("begin", "end", "id", "count"):
            attr: Any = name
            value = self.b.emit(
                ir.TileAttr(results=(self.b.new(index),), tile=tile.value, attr=attr)
            )
            return Scalar(value)
        return self.fail(
            "KT0416",
            f"a tile has no attribute '{name}'",
            remedy="use index, begin, end, id, count or block_size",
        )

    def _value_attribute(self, value: ir.Value, name: str) -> Any:
        if name == "dtype":
            return value.dtype
        if name == "shape":
            return tuple(simplified(s) for s in value.shape)
        if name == "ndim":
            return len(value.shape)
        if name == "device":
            return Device()
        if name in ("T", "mT"):
            return torch_device.FUNCTIONS["t"](self, value)
        return Method(value, name)

    def _dtype_attribute(self, dtype: DType, name: str) -> Any:
        if name == "is_floating_point":
            return dtype.is_float
        if name == "itemsize":
            return max(1, dtype.bits // 8)
        return Opaque(f"dtype attribute {name}")

    # -- calls -----------------------------------------------------------------------------

    def call_known(
        self, func: Any, args: list[Any], kwargs: dict[str, Any], node: cst.CSTNode
    ) -> Any:
        saved, self.node = self.node, node
        try:
            if isinstance(func, Builtin):
                return self.builtin(func.name, args, kwargs, node)
            if isinstance(func, Method):
                return self._method(func, args, kwargs, node)
            if isinstance(func, Known):
                return self._known(func.name, args, kwargs, node)
            if isinstance(func, DType) and args:
                return Opaque("a dtype call")
            return self.unsupported(node, f"a call of {describe(func)}")
        finally:
            self.node = saved

    def _known(self, name: str, args: list[Any], kwargs: dict[str, Any], node: cst.CSTNode) -> Any:
        if name.startswith("helion."):
            return self._helion(name, args, kwargs, node)
        if name.startswith("math."):
            return self._math(name[5:], args, node)
        if name in ("typing.cast", "builtins.cast"):
            return args[1]
        if name.startswith("torch."):
            return self._torch(name[len("torch.") :], args, kwargs, node)
        return self.unsupported(node, f"a call of {name}")

    def _helion(self, name: str, args: list[Any], kwargs: dict[str, Any], node: cst.CSTNode) -> Any:
        short = name.removeprefix("helion.language.")
        table = language.DEVICE if self.on_device else language.HOST
        handler = table.get(short)
        if handler is None:
            if self.on_device and short in language.HOST:
                self.fail(
                    "KT0417",
                    f"{name} in device code",
                    why="it takes part in the launch, so it belongs to the host program",
                    remedy="call it before the loop",
                )
            return self.unsupported(node, f"a call of {name}")
        return self.apply(handler, name, args, kwargs)

    def _math(self, name: str, args: list[Any], node: cst.CSTNode) -> Any:
        if any(device_number(a) or (self.on_device and isinstance(a, HostNumber)) for a in args):
            handler = torch_device.FUNCTIONS.get(name)
            if handler is not None:
                return self.apply(handler, f"math.{name}", args, {})
        handler = torch_host.math_function(name)
        if handler is None:
            return self.unsupported(node, f"a call of math.{name}")
        return handler(self, *args)

    def _torch(self, name: str, args: list[Any], kwargs: dict[str, Any], node: cst.CSTNode) -> Any:
        if name in ("promote_types", "result_type"):
            return torch_host.FUNCTIONS["promote_types"](self, *args)
        if self.on_device:
            handler = torch_device.FUNCTIONS.get(name)
            if handler is None:
                return self.fail(
                    "KT0418",
                    f"torch.{name} is not supported in device code",
                    why="kt has no lowering for it",
                    remedy="write it with the operations that docs/helion.md lists",
                )
            self._no_host_tensors([*args, *kwargs.values()])
            if name not in ("stack", "zeros", "full", "empty", "ones", "arange"):
                args = [self.tile_number(a) for a in args]
            return self.apply(handler, f"torch.{name}", args, kwargs)
        handler = torch_host.FUNCTIONS.get(name)
        if handler is None:
            return Opaque(f"the result of torch.{name}")
        return self.apply_host(handler, f"torch.{name}", args, kwargs)

    def _no_host_tensors(self, args: list[Any]) -> None:
        for arg in args:
            if isinstance(arg, HostTensor):
                self.fail_host_tensor(arg)

    def _method(
        self, func: Method, args: list[Any], kwargs: dict[str, Any], node: cst.CSTNode
    ) -> Any:
        owner, name = func.owner, func.name
        if isinstance(owner, (ir.Value, Scalar)):
            return self._value_method(owner, name, args, kwargs)
        if isinstance(owner, HostTensor):
            if self.on_device and name in ("new_zeros", "new_full", "new_empty", "new_ones"):
                return self.apply(torch_device.FUNCTIONS[name], name, [owner, *args], kwargs)
            handler = torch_host.METHODS.get(name)
            if self.on_device and name not in ("size", "stride", "dim", "numel", "element_size"):
                self.fail_host_tensor(owner)
            if handler is None:
                return Opaque(f"the result of .{name}()")
            return self.apply_host(handler, f".{name}", [owner, *args], kwargs)
        if isinstance(owner, Size) and name == "bit_length":
            return HostNumber(I64)
        if isinstance(owner, HostShape) and name == "numel":
            return torch_host.METHODS["numel"](self, owner.tensor)
        if isinstance(owner, (str, int, float, tuple, list, dict)):
            return self._python_method(owner, name, args, kwargs, node)
        return self.unsupported(node, f"method {name} of {describe(owner)}")

    def _python_method(
        self, owner: Any, name: str, args: list[Any], kwargs: dict[str, Any], node: cst.CSTNode
    ) -> Any:
        allowed = {
            "append", "bit_length", "count", "endswith", "extend", "format", "get", "index",
            "items", "join", "keys", "lower", "startswith", "upper", "values",
        }  # fmt: skip
        if name not in allowed:
            return self.unsupported(node, f"method {name} of {describe(owner)}")
        try:
            result = getattr(owner, name)(*args, **kwargs)
        except (TypeError, ValueError, AttributeError):
            return self.unsupported(node, f"method {name} of {describe(owner)}")
        return list(result) if name in ("items", "keys", "values") else result

    def _value_method(
        self, owner: ir.Value | Scalar, name: str, args: list[Any], kwargs: dict[str, Any]
    ) -> Any:
        value = owner.value if isinstance(owner, Scalar) else owner
        if name in ("size", "dim", "numel"):
            shape = tuple(simplified(s) for s in value.shape)
            if name == "dim":
                return len(shape)
            if name == "size":
                return shape[args[0]] if args else shape
            total = Size.of(1)
            for s in value.shape:
                total = total * s
            return simplified(total)
        if name == "item" and not value.shape:
            return Scalar(value)
        handler = torch_device.FUNCTIONS.get(name)
        if handler is None:
            return self.fail(
                "KT0418",
                f"Tensor.{name} is not supported in device code",
                why="kt has no lowering for it",
                remedy="write it with the operations that docs/helion.md lists",
            )
        self._no_host_tensors([a for a in args if name != "type_as"])
        return self.apply(handler, f"Tensor.{name}", [value, *args], kwargs)

    def apply(
        self, handler: Callable[..., Any], name: str, args: list[Any], kwargs: dict[str, Any]
    ) -> Any:
        """Call a table entry; a wrong argument list is the source's fault, not a crash."""
        try:
            return handler(self, *args, **kwargs)
        except (TypeError, AttributeError, IndexError, KeyError, ValueError) as exc:
            if isinstance(exc, TypeError) and "argument" in str(exc):
                raise error(
                    "KT0412", f"wrong arguments for {name}", self.b.span, why=_plain(exc)
                ) from exc
            kinds = ", ".join(describe(a) for a in args)
            raise error("KT0401", f"{name} does not take ({kinds})", self.b.span) from exc

    def apply_host(
        self, handler: Callable[..., Any], name: str, args: list[Any], kwargs: dict[str, Any]
    ) -> Any:
        """Host calls are only modelled: what does not fit the model is opaque."""
        try:
            return handler(self, *args, **kwargs)
        except (TypeError, AttributeError, IndexError, KeyError, ValueError, ZeroDivisionError):
            return Opaque(f"the result of {name}")

    def takes(self, func: Any, count: int) -> bool:
        """True if a source function has ``count`` positional parameters."""
        if not isinstance(func, Function):
            return False
        return len(func.node.params.params) == count

    # -- host pieces -------------------------------------------------------------------------

    def host_subscript(self, tensor: HostTensor, entries: list[Any]) -> Any:
        return torch_host.subscript(self, tensor, entries)

    def host_tensor_binary(self, left: Any, right: Any) -> Any:
        """Whole-tensor arithmetic on the host gives a new tensor of the broadcast shape."""
        tensors = [x for x in (left, right) if isinstance(x, HostTensor)]
        if self.on_device:
            for tensor in tensors:
                self.fail_host_tensor(tensor)
            self.fail("KT0401", f"operator on {describe(left)} and {describe(right)}")
        if any(isinstance(x, Opaque) for x in (left, right)) or len(tensors) != 1:
            return Opaque("a tensor expression")
        return torch_host.fresh(tensors[0].dtype, tensors[0].dims)


def _plain(exc: Exception) -> str:
    text = str(exc)
    return text.split("() ", 1)[-1] if "() " in text else text
