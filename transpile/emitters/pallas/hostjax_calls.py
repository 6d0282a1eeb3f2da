"""The torch calls of host programs and what they are in JAX: one table.

An entry is a template for :meth:`str.format` with the positional arguments ``{0}``, ``{1}``, ...
(a method's receiver is ``{0}``), or a function of the :class:`Call`. ``{0:a}`` puts the argument
into parentheses unless it is a name, a call or the like. Keyword arguments that torch and JAX
name differently are renamed; those that mean nothing to JAX are left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from transpile.ir.dtypes import BY_TORCH

#: torch's names of keyword arguments, and jax.numpy's; None: left out
KEYWORDS: dict[str, str | None] = {
    "dim": "axis", "keepdim": "keepdims", "input": "", "other": "", "self": "",
    "device": None, "requires_grad": None, "memory_format": None, "pin_memory": None,
    "layout": None, "non_blocking": None, "copy": None, "out": "out",
}  # fmt: skip


class Untranslatable(Exception):
    """The call has no counterpart in JAX; the message says why, or is empty."""


@dataclass
class Call:
    """One call with its arguments as translated text. ``receiver`` is "" for a function."""

    name: str
    receiver: str
    args: list[str]
    kwargs: dict[str, str] = field(default_factory=dict)

    def get(self, position: int, name: str, default: str | None = None) -> str:
        """An argument by place (after the receiver) or name. Raises where there is none."""
        if position < len(self.args):
            return self.args[position]
        found = self.kwargs.get(name, default)
        if found is None:
            raise Untranslatable(f"it has no `{name}`")
        return found

    def shape(self, position: int = 0, name: str = "size") -> str:
        """A shape that torch takes as one sequence or as several integers, as a tuple."""
        given = self.args[position:] or [self.kwargs.get(name, "")]
        if len(given) == 1:
            return as_tuple(given[0])
        return f"({', '.join(given)})"

    def keywords(self, *known: str) -> str:
        """``, axis=0, keepdims=True``: the keyword arguments that are not ``known``."""
        texts = []
        for name, value in self.kwargs.items():
            renamed = KEYWORDS.get(name, name)
            if name not in known and renamed is not None:
                texts.append(f", {renamed}={value}" if renamed else f", {value}")
        return "".join(texts)


def as_tuple(text: str) -> str:
    """A shape as a tuple display: lists become tuples, one integer a tuple of one."""
    if text[:1] == "[" and _closes_at_end(text):
        inner = text[1:-1].strip().rstrip(",")
        comma = "," if inner and not _has_comma(inner) else ""
        return f"({inner}{comma})"
    if text[:1] == "(" and _closes_at_end(text) and _has_comma(text[1:-1]):
        return text
    if text == "()" or text.endswith(".shape") or re.search(r"\.shape\[.*:.*\]$", text):
        return text
    if text.startswith("*"):
        return f"({text},)"
    return f"({text},)"


def atom(text: str) -> str:
    """The text in parentheses unless it binds tighter than an attribute access."""
    plain = re.fullmatch(r"[A-Za-z_][\w.]*", text) is not None
    closed = text[-1:] in ")]" and re.match(r"[A-Za-z_][\w.]*[(\[]", text) is not None
    whole = text[:1] == "(" and _closes_at_end(text)
    return text if plain or whole or (closed and _one_trailer(text)) else f"({text})"


def _closes_at_end(text: str) -> bool:
    depth = 0
    for i, c in enumerate(text):
        depth += (c in "([{") - (c in ")]}")
        if depth == 0:
            return i == len(text) - 1
    return False


def _has_comma(text: str) -> bool:
    depth = 0
    for c in text:
        depth += (c in "([{") - (c in ")]}")
        if c == "," and depth == 0:
            return True
    return False


def _one_trailer(text: str) -> bool:
    """True for ``a.b(...)[...].c(...)``: no operator outside brackets."""
    depth = 0
    for c in text:
        depth += (c in "([{") - (c in ")]}")
        if depth == 0 and not (c.isalnum() or c in "_.)]}"):
            return False
    return True


Entry = str | Callable[[Call], str]


# -- entries that are more than a template ---------------------------------------------------------


def _arange(call: Call) -> str:
    return f"jnp.arange({', '.join(call.args)}{call.keywords()})"


def _size(call: Call) -> str:
    if not call.args and "dim" not in call.kwargs:
        return f"{atom(call.receiver)}.shape"
    return f"{atom(call.receiver)}.shape[{call.get(0, 'dim')}]"


def _stride(call: Call) -> str:
    """Arrays have no strides; those of a row-major tensor are products of its sizes."""
    dim = call.get(0, "dim", "")
    if re.fullmatch(r"-?\d+", dim) is None:
        raise Untranslatable("a jax.Array has no strides")
    if dim == "-1":
        return "1"
    return f"math.prod({atom(call.receiver)}.shape[{int(dim) + 1}:])"


def _to(call: Call) -> str:
    """``x.to(dtype)``, ``x.to(other)``, ``x.to(device)``, and both."""
    dtypes = [a for a in (*call.args, call.kwargs.get("dtype", "")) if is_dtype(a)]
    if dtypes:
        return f"{atom(call.receiver)}.astype({dtypes[0]})"
    if call.kwargs.get("other") or (call.args and re.fullmatch(r"[A-Za-z_]\w*", call.args[0])):
        return f"{atom(call.receiver)}.astype({call.get(0, 'other')}.dtype)"
    return call.receiver


def is_dtype(text: str) -> bool:
    """True if the translated text is an element type."""
    if text.removeprefix("jnp.") in _DTYPE_NAMES and text.startswith("jnp."):
        return True
    return text.endswith("dtype") or "_types(" in text


_DTYPE_NAMES = {d.torch for d in BY_TORCH.values()} | {"bool_"}


def _view(call: Call) -> str:
    if len(call.args) == 1 and is_dtype(call.args[0]):
        return f"{atom(call.receiver)}.view({call.args[0]})"
    if not call.args and "dtype" in call.kwargs:
        return f"{atom(call.receiver)}.view({call.kwargs['dtype']})"
    return _reshape(call)


def _reshape(call: Call) -> str:
    given = call.args or [call.kwargs.get("shape", call.kwargs.get("size", ""))]
    if len(given) == 1 and given[0][:1] in "([" and _closes_at_end(given[0]):
        given = [given[0][1:-1].strip().rstrip(",")]
    return f"{atom(call.receiver)}.reshape({', '.join(given)})"


def _flatten(call: Call) -> str:
    if not call.args and not call.kwargs:
        return f"{atom(call.receiver)}.reshape(-1)"
    start, end = int(call.get(0, "start_dim", "0")), int(call.get(1, "end_dim", "-1"))
    x = atom(call.receiver)
    head = f"*{x}.shape[:{start}], " if start else ""
    tail = f", *{x}.shape[{end + 1}:]" if end != -1 else ""
    return f"{x}.reshape({head}-1{tail})"


def _expand(call: Call) -> str:
    shape = call.shape()
    if "-1" in shape:
        raise Untranslatable("it keeps a size with -1; write the size")
    return f"jnp.broadcast_to({call.receiver}, {shape})"


def _chunk(call: Call) -> str:
    return f"jnp.split({call.receiver}, {call.get(0, 'chunks')}, axis={call.get(1, 'dim', '0')})"


def _dims(call: Call) -> str:
    """The order of ``permute`` as positional arguments."""
    given = call.args or [call.kwargs.get("dims", "")]
    if len(given) == 1 and given[0][:1] in "([":
        given = [given[0][1:-1].strip().rstrip(",")]
    return f"{atom(call.receiver)}.transpose({', '.join(given)})"


def _extreme(name: str) -> Callable[[Call], str]:
    def entry(call: Call) -> str:
        if call.args or call.kwargs:
            raise Untranslatable("it returns values and indices; use amax, amin or argmax")
        return f"{atom(call.receiver)}.{name}()"

    return entry


def _value_on_host(call: Call) -> str:
    raise Untranslatable("it needs the value on the host, which jax.jit does not have")


def _cat(call: Call) -> str:
    return f"jnp.concatenate({call.get(0, 'tensors')}, axis={call.get(1, 'dim', '0')})"


def _stack(call: Call) -> str:
    return f"jnp.stack({call.get(0, 'tensors')}, axis={call.get(1, 'dim', '0')})"


def _clamp(call: Call) -> str:
    low, high = call.get(0, "min", "None"), call.get(1, "max", "None")
    return f"jnp.clip({call.receiver}, {low}, {high})"


def _gelu(call: Call) -> str:
    approximate = call.get(1, "approximate", "'none'").strip("'\"") == "tanh"
    return f"jax.nn.gelu({call.args[0]}, approximate={approximate})"


def _softmax(name: str) -> Callable[[Call], str]:
    def entry(call: Call) -> str:
        x = call.get(0, "input")
        axis = call.get(1, "dim", "-1")
        if "dtype" in call.kwargs and call.kwargs["dtype"] != "None":
            x = f"{atom(x)}.astype({call.kwargs['dtype']})"
        return f"jax.nn.{name}({x}, axis={axis})"

    return entry


def _linear(call: Call) -> str:
    x, weight = call.args[0], call.get(1, "weight")
    bias = call.get(2, "bias", "None")
    text = f"{atom(x)} @ {atom(weight)}.T"
    return text if bias == "None" else f"{text} + {bias}"


def same(name: str) -> Callable[[Call], str]:
    """The function of this name with the same arguments, keywords renamed."""

    def entry(call: Call) -> str:
        given = ", ".join([call.receiver, *call.args] if call.receiver else call.args)
        text = f"{given}{call.keywords()}"
        return f"{name}({text.removeprefix(', ')})"

    return entry


def method(name: str) -> Callable[[Call], str]:
    """The method of this name with the same arguments, keywords renamed."""

    def entry(call: Call) -> str:
        text = f"{', '.join(call.args)}{call.keywords()}".removeprefix(", ")
        return f"{atom(call.receiver)}.{name}({text})"

    return entry


# -- the tables ------------------------------------------------------------------------------------

_SAME_NAME = (
    "abs", "all", "any", "argmax", "argmin", "bitwise_and", "bitwise_not", "bitwise_or",
    "bitwise_xor", "ceil", "cos", "cosh", "cumsum", "cumprod", "diag", "equal", "exp", "exp2",
    "expm1", "flip", "floor", "floor_divide", "isfinite", "isinf", "isnan", "log", "log10", "log1p",
    "log2", "logical_and", "logical_not", "logical_or", "logaddexp", "matmul", "maximum", "mean",
    "minimum", "outer", "prod", "remainder", "round", "sign", "sin", "sinh", "sqrt", "square",
    "sum", "tan", "tanh", "tril", "triu", "trunc", "where",
)  # fmt: skip

_OTHER_NAME = {
    "amax": "jnp.max", "amin": "jnp.min", "bmm": "jnp.matmul", "mm": "jnp.matmul",
    "mv": "jnp.matmul", "dot": "jnp.dot", "div": "jnp.divide", "true_divide": "jnp.divide",
    "add": "jnp.add", "sub": "jnp.subtract", "mul": "jnp.multiply", "neg": "jnp.negative",
    "pow": "jnp.power", "erf": "jax.lax.erf", "rsqrt": "jax.lax.rsqrt", "relu": "jax.nn.relu",
    "sigmoid": "jax.nn.sigmoid", "acos": "jnp.arccos", "asin": "jnp.arcsin", "atan": "jnp.arctan",
    "atan2": "jnp.arctan2", "eq": "jnp.equal", "ne": "jnp.not_equal", "lt": "jnp.less",
    "le": "jnp.less_equal", "gt": "jnp.greater", "ge": "jnp.greater_equal", "einsum": "jnp.einsum",
    "logsumexp": "jax.nn.logsumexp", "repeat_interleave": "jnp.repeat", "movedim": "jnp.moveaxis",
    "reciprocal": "jnp.reciprocal", "bincount": "jnp.bincount",
}  # fmt: skip

FUNCTIONS: dict[str, Entry] = {
    **{f"torch.{name}": same(f"jnp.{name}") for name in _SAME_NAME},
    **{f"torch.{name}": same(other) for name, other in _OTHER_NAME.items()},
    "torch.arange": _arange,
    "torch.broadcast_tensors": same("jnp.broadcast_arrays"),
    "torch.broadcast_shapes": same("jnp.broadcast_shapes"),
    "torch.broadcast_to": same("jnp.broadcast_to"),
    "torch.cat": _cat,
    "torch.concat": _cat,
    "torch.stack": _stack,
    "torch.chunk": lambda call: _chunk(_on_first(call)),
    "torch.clamp": lambda call: _clamp(_on_first(call)),
    "torch.transpose": lambda call: _METHOD_ENTRY("transpose", _on_first(call)),
    "torch.permute": lambda call: _dims(_on_first(call)),
    "torch.reshape": lambda call: _reshape(_on_first(call)),
    "torch.flatten": lambda call: _flatten(_on_first(call)),
    "torch.squeeze": same("jnp.squeeze"),
    "torch.unsqueeze": same("jnp.expand_dims"),
    "torch.t": "{0:a}.T",
    "torch.numel": "{0:a}.size",
    "torch.promote_types": "jnp.promote_types({0}, {1})",
    "torch.result_type": "jnp.promote_types({0:a}.dtype, {1:a}.dtype)",
    "torch.is_tensor": "isinstance({0}, jax.Array)",
    "torch.is_floating_point": "jnp.issubdtype({0:a}.dtype, jnp.floating)",
    "torch.finfo": "jnp.finfo({0})",
    "torch.iinfo": "jnp.iinfo({0})",
    "torch.tensor": "jnp.array({0}{dtype})",
    "torch.as_tensor": "jnp.asarray({0}{dtype})",
    "torch.Size": "tuple({0})",
    "torch.softmax": _softmax("softmax"),
    "torch.log_softmax": _softmax("log_softmax"),
    "torch.nn.functional.softmax": _softmax("softmax"),
    "torch.nn.functional.log_softmax": _softmax("log_softmax"),
    "torch.nn.functional.gelu": _gelu,
    "torch.nn.functional.silu": "jax.nn.silu({0})",
    "torch.nn.functional.relu": "jax.nn.relu({0})",
    "torch.nn.functional.sigmoid": "jax.nn.sigmoid({0})",
    "torch.nn.functional.tanh": "jnp.tanh({0})",
    "torch.nn.functional.softplus": "jax.nn.softplus({0})",
    "torch.nn.functional.leaky_relu": "jax.nn.leaky_relu({0}, {1|0.01})",
    "torch.nn.functional.linear": _linear,
    "torch.manual_seed": _value_on_host,
}

METHODS: dict[str, Entry] = {
    **{name: same(f"jnp.{name}") for name in _SAME_NAME},
    **{name: same(other) for name, other in _OTHER_NAME.items()},
    **{name: method(name) for name in ("all", "any", "argmax", "argmin", "cumsum", "cumprod")},
    **{name: method(name) for name in ("mean", "prod", "round", "sum")},
    "amax": method("max"),
    "amin": method("min"),
    "max": _extreme("max"),
    "min": _extreme("min"),
    "size": _size,
    "dim": "{0:a}.ndim",
    "ndimension": "{0:a}.ndim",
    "numel": "{0:a}.size",
    "nelement": "{0:a}.size",
    "element_size": "{0:a}.dtype.itemsize",
    "stride": _stride,
    "is_contiguous": "True",
    "is_floating_point": "jnp.issubdtype({0:a}.dtype, jnp.floating)",
    "to": _to,
    "type": _to,
    "type_as": "{0:a}.astype({1:a}.dtype)",
    "float": "{0:a}.astype(jnp.float32)",
    "half": "{0:a}.astype(jnp.float16)",
    "bfloat16": "{0:a}.astype(jnp.bfloat16)",
    "int": "{0:a}.astype(jnp.int32)",
    "long": "{0:a}.astype(jnp.int32)",
    "bool": "{0:a}.astype(jnp.bool_)",
    "contiguous": "{0}",
    "detach": "{0}",
    "cuda": "{0}",
    "clone": "{0}",  # arrays are immutable
    "requires_grad_": "{0}",
    "view": _view,
    "view_as": "{0:a}.reshape({1:a}.shape)",
    "reshape": _reshape,
    "reshape_as": "{0:a}.reshape({1:a}.shape)",
    "flatten": _flatten,
    "permute": _dims,
    "transpose": "jnp.swapaxes({0}, {1}, {2})",
    "t": "{0:a}.T",
    "unsqueeze": same("jnp.expand_dims"),
    "squeeze": same("jnp.squeeze"),
    "expand": _expand,
    "expand_as": "jnp.broadcast_to({0}, {1:a}.shape)",
    "broadcast_to": lambda call: f"jnp.broadcast_to({call.receiver}, {call.shape()})",
    "repeat": lambda call: f"jnp.tile({call.receiver}, {call.shape(0, 'repeats')})",
    "chunk": _chunk,
    "clamp": _clamp,
    "masked_fill": "jnp.where({1}, {2}, {0})",
    "item": _value_on_host,
    "tolist": _value_on_host,
    "cpu": _value_on_host,
    "numpy": _value_on_host,
}

#: attributes of tensors; None: they mean nothing to JAX
ATTRIBUTES: dict[str, str | None] = {
    "T": "{0:a}.T", "mT": "{0:a}.mT", "shape": "{0:a}.shape", "dtype": "{0:a}.dtype",
    "ndim": "{0:a}.ndim", "is_cuda": "True", "requires_grad": "False", "device": None,
}  # fmt: skip

#: what a statement does to a tensor in place: the new value of its receiver
IN_PLACE: dict[str, Entry] = {
    "zero_": "jnp.zeros_like({0})",
    "fill_": "jnp.full_like({0}, {1})",
    "copy_": "{1:a}.astype({0}.dtype)",
    "add_": "({0} + {1}).astype({0}.dtype)",
    "sub_": "({0} - {1}).astype({0}.dtype)",
    "mul_": "({0} * {1}).astype({0}.dtype)",
    "div_": "({0} / {1}).astype({0}.dtype)",
}


def _METHOD_ENTRY(name: str, call: Call) -> str:  # noqa: N802
    return translate(METHODS[name], call)


def _on_first(call: Call) -> Call:
    """A function of a tensor as its method."""
    kwargs = dict(call.kwargs)
    first = call.args[0] if call.args else kwargs.pop("input")
    return Call(call.name, first, call.args[1:], kwargs)


class _Formatted(str):
    """An argument that ``{0:a}`` puts into parentheses where it needs them."""

    __slots__ = ()

    def __format__(self, spec: str) -> str:
        return atom(str(self)) if spec == "a" else str(self)


def translate(entry: Entry, call: Call) -> str:
    """The call in JAX. Raises Untranslatable."""
    if not isinstance(entry, str):
        return entry(call)
    template = entry
    given = [call.receiver, *call.args] if call.receiver else list(call.args)
    extra = [v for k, v in call.kwargs.items() if k in ("input", "other", "value", "dtype")]
    for place, default in re.findall(r"\{(\d)\|([^}]*)\}", template):
        template = template.replace(f"{{{place}|{default}}}", f"{{{place}}}")
        if int(place) >= len(given):
            given.append(default)
    dtype = f", dtype={call.kwargs['dtype']}" if "dtype" in call.kwargs else ""
    try:
        formatted = [_Formatted(text) for text in (*given, *extra)]
        return template.format(*formatted, dtype=dtype)
    except IndexError:
        raise Untranslatable("it lacks an argument") from None
