"""Runs a kernel's host program: the source's own statements, with launches as callbacks."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from transpile.ir import ir
from transpile.ir.interpreter import InterpreterError
from transpile.ir.ir import Kernel
from transpile.ir.ops import Number
from transpile.ir.sizes import Size, Sym

_LAUNCH = "__kt_launch__"
_FUNCTION = "__kt_host__"
_MULTIPROCESSORS = 4  # few, so that persistent programs take turns


@dataclass
class Bound:
    """What a launch passes to the device: tensors and scalars by name, sizes by symbol."""

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    scalars: dict[str, Number] = field(default_factory=dict)
    sizes: dict[Sym, int] = field(default_factory=dict)


def run_host(
    kernel: Kernel,
    args: Mapping[str, Any],
    blocks: Mapping[Sym, int],
    launch: Callable[[int, Bound], None],
    fill_empty: bool,
) -> Any:
    """Execute the host program; ``launch(phase, bound)`` runs a phase."""
    source = host_source(kernel, blocks)
    namespace: dict[str, Any] = {"torch": torch, "math": math, "__name__": kernel.name}

    def callback(phase: int, frame: Mapping[str, Any]) -> None:
        with _filling(False):
            launch(phase, bind(kernel, namespace, frame))

    namespace[_LAUNCH] = callback
    namespace["__kt_num_sm__"] = lambda _device: _MULTIPROCESSORS
    exec(compile(source, f"<host program of {kernel.name}>", "exec"), namespace)
    given = {p.name: args[p.name] for p in kernel.params if p.name in args}
    unknown = sorted(args.keys() - given.keys())
    if unknown:
        raise InterpreterError(f"{kernel.name} has no parameter {', '.join(unknown)}")
    for param in kernel.params:
        if param.name not in given and param.kind == "constexpr" and param.default is None:
            given[param.name] = param.value
    with _filling(fill_empty):
        return namespace[_FUNCTION](**given)


def host_source(kernel: Kernel, blocks: Mapping[Sym, int]) -> str:
    """The host program as one Python function that calls back at each launch."""
    params = [p.name if p.default is None else f"{p.name}={p.default}" for p in kernel.params]
    seen_default = False
    for position, param in enumerate(kernel.params):
        seen_default |= param.default is not None
        if seen_default and param.default is None:
            params[position] += "=None"
    lines = [kernel.prelude, f"def {_FUNCTION}({', '.join(params)}):", "    pass"]
    for part in kernel.host:
        if isinstance(part, ir.Launch):
            lines.append(f"{'    ' * (1 + part.indent)}{_LAUNCH}({part.phase}, locals())")
        else:
            lines += [f"    {line}" if line.strip() else "" for line in part.text.splitlines()]
    text = "\n".join(lines) + "\n"
    for sym, size in blocks.items():
        text = text.replace(f"__kt_block_{sym.name}__", str(size))
    return text


# -- launches ----------------------------------------------------------------------------------


def bind(kernel: Kernel, namespace: dict[str, Any], frame: Mapping[str, Any]) -> Bound:
    """Evaluate what the device needs in the host frame, and solve for the symbols."""
    scope = dict(frame)

    def value_of(text: str) -> Any:
        return eval(text, namespace, scope)

    bound = Bound()
    for tensor in kernel.tensors:
        bound.tensors[tensor.name] = value_of(tensor.host)
    for scalar in kernel.scalars:
        bound.scalars[scalar.name] = _number(value_of(scalar.host))
    for tensor in kernel.tensors:
        _unify(bound, tensor)
    for size, text in kernel.size_names:
        sym = size.as_sym()
        if sym is not None and sym not in bound.sizes:
            bound.sizes[sym] = int(value_of(text))
    for name, value in bound.scalars.items():
        if isinstance(value, int):
            bound.sizes.setdefault(Sym(name, "scalar"), int(value))
    for tensor in kernel.tensors:
        actual = bound.tensors[tensor.name]
        _check(bound, f"{tensor.name} has shape", tensor.shape, actual.shape)
        if actual.numel():
            _check_strides(bound, tensor, actual)
    return bound


def _number(value: Any) -> Number:
    return value.item() if isinstance(value, torch.Tensor) else value  # type: ignore[no-any-return]


def _unify(bound: Bound, tensor: ir.Tensor) -> None:
    actual = bound.tensors[tensor.name]
    if actual.ndim != len(tensor.shape):
        raise InterpreterError(f"{tensor.name} has rank {actual.ndim}, not {len(tensor.shape)}")
    pairs = [*zip(tensor.shape, actual.shape, strict=True)]
    pairs += zip(tensor.strides, actual.stride(), strict=True)
    for size, number in pairs:
        sym = size.as_sym()
        if sym is not None:
            bound.sizes.setdefault(sym, number)


def _check(bound: Bound, what: str, sizes: Sequence[Size], actual: Sequence[int]) -> None:
    for size, number in zip(sizes, actual, strict=True):
        if size.syms <= bound.sizes.keys() and size.evaluate(bound.sizes) != number:
            expected = f"({', '.join(map(str, sizes))})"
            raise InterpreterError(f"{what} {tuple(actual)}, not {expected}")


def _check_strides(bound: Bound, tensor: ir.Tensor, actual: torch.Tensor) -> None:
    """Strides that the IR states must be the tensor's, but for dimensions of size 1."""
    kept = [dim for dim in range(actual.ndim) if actual.shape[dim] != 1]
    strides = [tensor.strides[dim] for dim in kept]
    _check(bound, f"{tensor.name} has strides", strides, [actual.stride(dim) for dim in kept])


# -- uninitialised memory ----------------------------------------------------------------------


@contextlib.contextmanager
def _filling(on: bool) -> Iterator[None]:
    """Whether torch fills what it allocates uninitialised: NaN, integers their largest value."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(on, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
