"""The evaluator of the Helion dialect: what names, attributes and calls mean in its two modes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import libcst as cst

from transpile.frontend import torch_device, torch_host
from transpile.frontend.builder import Builder, describe
from transpile.frontend.evaluator import Evaluator
from transpile.frontend.helion import language
from transpile.frontend.helion.blocks import BlockTable
from transpile.frontend.indexing import Access
from transpile.frontend.operators import UNKNOWN, device_number
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
from transpile.ir.dtypes import BOOL, BY_TORCH, F32, I64, DType
from transpile.ir.sizes import Size

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


class Lowering(Evaluator):
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
                return self._builtin(func.name, args, kwargs, node)
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
                args = [self._operand(a) for a in args]
            return self.apply(handler, f"torch.{name}", args, kwargs)
        handler = torch_host.FUNCTIONS.get(name)
        if handler is None:
            return Opaque(f"the result of torch.{name}")
        return self.apply_host(handler, f"torch.{name}", args, kwargs)

    def _operand(self, x: Any) -> Any:
        return x.size if isinstance(x, Tile) else x

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
            "bit_length", "append", "items", "keys", "values", "get", "index", "count", "lower", "upper",
            "startswith", "endswith", "join", "format", "extend",
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

    # -- builtins --------------------------------------------------------------------------

    def _builtin(
        self, name: str, args: list[Any], kwargs: dict[str, Any], node: cst.CSTNode
    ) -> Any:
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
        items = [self._operand(i) for i in items]
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

    # -- memory ------------------------------------------------------------------------------

    def load(
        self, tensor: HostTensor, entries: list[Any], mask: Any = None, eviction: str = ""
    ) -> Any:
        access = self.indexer.resolve(tensor, entries)
        target = self.register_tensor(tensor)
        if target in self.stored:
            self.b.emit(ir.Barrier())
            self.stored.clear()
        mask_value, guards = self._mask(mask, access)
        value: ir.Value = self.b.emit(
            ir.Load(
                results=(self.b.new(tensor.dtype, access.shape),),
                tensor=target,
                index=access.index,
                guards=guards,
                mask=mask_value,
                eviction=eviction,
            )
        )
        return self.b.reshape(value, access.view)

    def _mask(self, mask: Any, access: Access) -> tuple[ir.Value | None, tuple[ir.Guard, ...]]:
        """The extra mask, with those of jagged tiles, and the guards it leaves to do."""
        jagged, covered = self._jagged_mask(access.shape)
        guards = tuple(g for g in access.guards if g.tile not in covered)
        if mask is None:
            return jagged, guards
        extra = self._extra_mask(mask, access.shape)
        if jagged is None:
            return extra, guards
        return self.b.elementwise("and", extra, jagged), guards

    def _jagged_mask(self, shape: tuple[Size, ...]) -> tuple[ir.Value | None, list[ir.Value]]:
        mask: ir.Value | None = None
        covered: list[ir.Value] = []
        for tile in self.b.tiles:
            one = None if tile.lengths is None else self.b.jagged_mask(tile, shape)
            if one is not None:
                mask = one if mask is None else self.b.elementwise("and", mask, one)
                covered.append(tile.value)
        return mask, covered

    def _extra_mask(self, mask: Any, shape: tuple[Size, ...]) -> ir.Value:
        value = self.b.scalar(mask)
        if not value.dtype.is_bool:
            value = self.b.elementwise("ne", value, 0)
        self.b.broadcast_shape([value.shape, shape])
        if value.shape and len(value.shape) < len(shape):
            pad = (Size.of(1),) * (len(shape) - len(value.shape))
            value = self.b.reshape(value, pad + value.shape)
        return value

    def store(self, tensor: HostTensor, entries: list[Any], value: Any, mask: Any = None) -> None:
        access = self.indexer.resolve(tensor, entries)
        target = self.register_tensor(tensor)
        stored = self._stored_value(value, tensor.dtype, access.shape, access.view)
        mask_value, guards = self._mask(mask, access)
        self.b.emit(
            ir.Store(
                tensor=target, index=access.index, value=stored, guards=guards, mask=mask_value
            )
        )
        self.stored.add(target)

    def _stored_value(
        self, value: Any, dtype: DType, shape: tuple[Size, ...], view: tuple[Size, ...]
    ) -> ir.Value:
        value = self._operand(value)
        if isinstance(value, (bool, int, float)):
            return self.b.const(value, dtype)
        if isinstance(value, HostTensor):
            self.fail_host_tensor(value)
        tile = self.b.cast(self.b.scalar(value), dtype)
        if not tile.shape:
            return tile
        if len(tile.shape) > len(view):
            lead = tile.shape[: len(tile.shape) - len(view)]
            if all(s.substitute(self.b.fixed_blocks) == Size.of(1) for s in lead):
                tile = self.b.reshape(tile, tile.shape[len(lead) :])
        joined = self.b.broadcast_shape([view, tile.shape])
        if len(joined) != len(view):
            self.fail(
                "KT0502",
                f"a value of shape {list(map(str, tile.shape))} for an index of shape "
                f"{list(map(str, view))}",
                remedy="reduce or squeeze the extra axes first",
            )
        if view != shape:
            tile = self.b.reshape(self.b.broadcast(tile, view), shape)
        elif len(tile.shape) < len(shape):
            tile = self.b.reshape(tile, (Size.of(1),) * (len(shape) - len(tile.shape)) + tile.shape)
        return tile

    def atomic(
        self, kind: Any, tensor: HostTensor, entries: list[Any], operands: list[Any], sem: str
    ) -> Any:
        access = self.indexer.resolve(tensor, entries)
        target = self.register_tensor(tensor)
        if len(operands) != (2 if kind == "cas" else 1):
            self.fail("KT0412", f"wrong arguments for hl.atomic_{kind}")
        values = [self._stored_value(v, tensor.dtype, access.shape, access.view) for v in operands]
        mask_value, guards = self._mask(None, access)
        result = self.b.emit(
            ir.Atomic(
                results=(self.b.new(tensor.dtype, access.shape),),
                kind=kind,
                tensor=target,
                index=access.index,
                value=values[-1],
                guards=guards,
                mask=mask_value,
                sem=sem,
                expected=values[0] if kind == "cas" else None,
            )
        )
        return result


def _plain(exc: Exception) -> str:
    text = str(exc)
    return text.split("() ", 1)[-1] if "() " in text else text
