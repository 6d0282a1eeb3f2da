"""Loads, stores and atomics of host tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transpile.frontend.evaluator import Evaluator
from transpile.frontend.indexing import Access
from transpile.frontend.values import (
    HostTensor,
)
from transpile.ir import ir
from transpile.ir.dtypes import F4E2M1X2, U8, DType
from transpile.ir.sizes import Size


class Memory(Evaluator):
    """Emits memory operations, with the masks of jagged tiles and the barriers they need."""

    register_tensor: Callable[[HostTensor], ir.Tensor]
    stored: set[ir.Tensor]
    views: dict[tuple[HostTensor, DType, bool], HostTensor]

    # -- memory ------------------------------------------------------------------------------

    def load(
        self, tensor: HostTensor, entries: list[Any], mask: Any = None, eviction: str = ""
    ) -> Any:
        access = self.indexer.resolve(tensor, entries, mask is not None)
        memory = self.memory_view(tensor, U8) if tensor.dtype == F4E2M1X2 else tensor
        target = self.register_tensor(memory)
        if target in self.stored:
            self.b.emit(ir.Barrier())
            self.stored.clear()
        mask_value, guards = self._mask(mask, access)
        value: ir.Value = self.b.emit(
            ir.Load(
                results=(self.b.new(memory.dtype, access.shape),),
                tensor=target,
                index=access.index,
                guards=guards,
                mask=mask_value,
                eviction=eviction,
            )
        )
        return self.b.bitcast(self.b.reshape(value, access.view), tensor.dtype)

    def memory_view(self, tensor: HostTensor, dtype: DType, flat: bool = False) -> HostTensor:
        """The tensor's memory as another dtype of the same width, and as one dimension."""
        flat = flat and tensor.rank != 1
        if dtype == tensor.dtype and not flat:
            return tensor
        key = (tensor, dtype, flat)
        if key not in self.views:
            self.views[key] = HostTensor(
                dtype,
                (tensor.numel(),) if flat else tensor.shape,
                (Size.of(1),) if flat else tensor.strides,
                origin=tensor.origin or tensor.param,
                base=tensor,
                view=(f".view(torch.{dtype.torch})" if dtype != tensor.dtype else "")
                + (".view(-1)" if flat else ""),
            )
        return self.views[key]

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
        access = self.indexer.resolve(tensor, entries, mask is not None)
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
        value = self.tile_number(value)
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
        return self.b.emit(
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
