"""Signatures: what a user states about the parameters of a kernel.

Texts come from ``--arg NAME=SPEC``, ``--set NAME=VALUE``, the project file and jaxtyping
annotations; all of them become the same four classes. The grammar of a SPEC::

    SPEC  = LITERAL | DTYPE | DTYPE "[" [DIM ("," DIM)*] "]" [ "{" [INT ("," INT)*] "}" ]
    DIM   = NAME (dynamic, shared by name) | INT (static) | "_" (dynamic, anonymous)

The order in braces is minor to major as XLA prints it: ``f16[M,K]{0,1}`` is column-major.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from transpile.ir import dtypes
from transpile.ir.diagnostics import Diagnostic, KtError
from transpile.ir.dtypes import DType
from transpile.ir.ir import Span

Dim = str | int | None


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor parameter. A dim is a name, an integer (static) or None (``_``).

    ``order`` lists the dimensions minor to major; None is row-major.
    """

    dtype: DType
    dims: tuple[Dim, ...]
    order: tuple[int, ...] | None = None

    def __str__(self) -> str:
        text = f"{self.dtype}[{','.join('_' if d is None else str(d) for d in self.dims)}]"
        return text if self.order is None else f"{text}{{{','.join(map(str, self.order))}}}"


@dataclass(frozen=True, slots=True)
class ScalarSpec:
    """A run-time scalar parameter."""

    dtype: DType

    def __str__(self) -> str:
        return str(self.dtype)


@dataclass(frozen=True, slots=True)
class Name:
    """A bare identifier given as a compile-time value: something the source file defines."""

    id: str

    def __str__(self) -> str:
        return self.id


Literal = bool | int | float | complex | str | bytes | None | DType | Name | tuple["Literal", ...]


@dataclass(frozen=True, slots=True)
class LiteralSpec:
    """A compile-time value: a Python literal, a dtype or a bare name."""

    value: Literal

    def __str__(self) -> str:
        return format_literal(self.value)


Spec = TensorSpec | ScalarSpec | LiteralSpec
Signature = Mapping[str, Spec]


# -- parsing -----------------------------------------------------------------------------------


class _SpecError(Exception):
    """What is wrong at offset ``pos`` of the text; becomes a diagnostic in ``_located``."""

    def __init__(self, code: str, message: str, pos: int, end: int, why: str, remedy: str) -> None:
        super().__init__(message)
        self.code, self.message, self.pos, self.end = code, message, pos, end
        self.why, self.remedy = why, remedy


def _fail(
    code: str, message: str, pos: int, end: int = 0, *, why: str = "", remedy: str = ""
) -> _SpecError:
    return _SpecError(code, message, pos, max(end, pos + 1), why, remedy)


def _located(exc: _SpecError, text: str, where: str) -> KtError:
    span = Span(1, exc.pos + 1, 1, exc.end + 1)
    return KtError(
        Diagnostic(
            exc.code, exc.message, span, exc.why, exc.remedy, file=where, line_text=text or " "
        )
    )


def parse_spec(text: str, where: str = "signature") -> Spec:
    """The meaning of a SPEC, or of a literal in its place (``True``, ``16``, ``'gelu'``, ``None``).

    ``where`` says where the text stands (``--arg x``), for the diagnostic's location. Raises
    KtError KT0201 to KT0204, KT0207.
    """
    try:
        if (literal := _spec_literal(text)) is not None:
            return literal
        return _parse_type(text)
    except _SpecError as exc:
        raise _located(exc, text, where) from None


_DTYPE = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_.]*)\s*")
_BRACKETS = re.compile(r"\[([^\[\]{}]*)\]\s*")
_BRACES = re.compile(r"\{([^\[\]{}]*)\}\s*")


def _spec_literal(text: str) -> LiteralSpec | None:
    stripped = text.strip()
    if stripped in ("None", "True", "False") or stripped[:1] in tuple("0123456789.+-'\"("):
        value = _literal(text)
        if not isinstance(value, Name | DType):
            return LiteralSpec(value)
    return None


def _parse_type(text: str) -> TensorSpec | ScalarSpec:
    match = _DTYPE.match(text)
    if match is None:
        what = "an empty signature" if not text.strip() else "a signature starts with a dtype"
        raise _fail("KT0201", what, len(text) - len(text.lstrip()), remedy="write `f16[M,K]`")
    dtype = _dtype(match.group(1), match.start(1))
    pos = match.end()
    if pos == len(text):
        return ScalarSpec(dtype)
    brackets = _BRACKETS.match(text, pos)
    if brackets is None:
        raise _fail(
            "KT0201", _why_no_brackets(text, pos), pos, len(text.rstrip()),
            remedy="write `dtype[dims]`, such as `f16[M,K]`",
        )  # fmt: skip
    dims = _dims(brackets.group(1), brackets.start(1))
    _check_numel(dims, brackets.start(1), brackets.end(1))
    pos = brackets.end()
    if pos == len(text):
        return TensorSpec(dtype, dims)
    braces = _BRACES.match(text, pos)
    if braces is None or braces.end() != len(text):
        bad = pos if braces is None else braces.end()
        raise _fail("KT0201", f"unexpected `{text[bad:].strip()}`", bad, len(text.rstrip()))
    order = _order(braces.group(1), braces.start(1), len(dims))
    return TensorSpec(dtype, dims, order)


def _why_no_brackets(text: str, pos: int) -> str:
    rest = text[pos:].strip()
    if rest.startswith("["):
        return "`[` is not closed" if "]" not in rest else "nested brackets in the dimensions"
    return f"unexpected `{rest}` after the dtype"


_OFTEN_MEANT = {
    "fp16": "f16", "fp32": "f32", "fp64": "f64", "bfloat": "bf16", "float8_e4m3": "f8e4m3",
    "float8": "f8e4m3", "fp8": "f8e4m3", "fp8e4m3": "f8e4m3", "fp8e5m2": "f8e5m2", "f8": "f8e4m3",
    "f8e4m3fn": "f8e4m3", "f4": "f4e2m1x2", "fp4": "f4e2m1x2", "s8": "i8", "s16": "i16",
    "s32": "i32", "s64": "i64", "i1": "bool", "boolean": "bool", "uint16": "u16", "pred": "bool",
}  # fmt: skip


def _dtype(name: str, pos: int) -> DType:
    if (dtype := dtypes.BY_NAME.get(name)) is not None:
        return dtype
    meant = dtypes.BY_TORCH.get(name.removeprefix("torch."))
    suggestion = meant.name if meant else _OFTEN_MEANT.get(name.lower()) or _closest(name)
    remedy = f"write `{suggestion}`; " if suggestion else ""
    known = " ".join(d.name for d in dtypes.ALL)
    raise _fail(
        "KT0202", f"unknown dtype `{name}`", pos, pos + len(name),
        remedy=f"{remedy}the dtypes are {known}",
    )  # fmt: skip


def _closest(name: str) -> str:
    import difflib  # only on the way to an error

    return next(iter(difflib.get_close_matches(name.lower(), dtypes.BY_NAME, 1, 0.6)), "")


def _dims(text: str, pos: int) -> tuple[Dim, ...]:
    if not text.strip():
        return ()
    dims: list[Dim] = []
    for part in text.split(","):
        item = part.strip()
        at = pos + len(part) - len(part.lstrip())
        dims.append(_dim(item, at))
        pos += len(part) + 1
    return tuple(dims)


def _dim(item: str, at: int) -> Dim:
    end = at + len(item)
    if item == "_":
        return None
    if item.isascii() and item.isdigit():
        if int(item) == 0:
            raise _fail(
                "KT0203", "a static dimension of 0", at, end,
                why="a kernel over no elements does nothing; empty tensors are fine at run time "
                "where the dimension is dynamic",
                remedy="give the dimension a name",
            )  # fmt: skip
        return int(item)
    if item.isidentifier() and item.isascii():
        return item
    message = f"`{item}` is not a dimension" if item else "a dimension is missing"
    raise _fail(
        "KT0203", message, at, end,
        remedy="write a name (dynamic), an integer of at least 1 (static) or `_` (anonymous)",
    )  # fmt: skip


_MAX_ELEMENTS = 2**63 - 1


def _check_numel(dims: Sequence[Dim], pos: int, end: int) -> None:
    static = prod(d for d in dims if isinstance(d, int))
    if static > _MAX_ELEMENTS:
        raise _fail("KT0207", f"a tensor of at least {static} elements", pos, end)


def _order(text: str, pos: int, rank: int) -> tuple[int, ...] | None:
    items = [item.strip() for item in text.split(",")] if text.strip() else []
    for item in items:
        if not (item.isascii() and item.isdigit()):
            at = pos + max(text.find(item), 0)
            raise _fail("KT0204", f"`{item}` is not a dimension's number", at, at + len(item))
    order = tuple(int(item) for item in items)
    if sorted(order) != list(range(rank)):
        row, column = range(rank - 1, -1, -1), range(rank)
        raise _fail(
            "KT0204", f"`{{{text}}}` is no permutation of the {rank} dimensions", pos - 1,
            pos + len(text) + 1,
            why="the order lists every dimension once, minor (contiguous) to major",
            remedy=f"row-major is {{{','.join(map(str, row))}}}, "
            f"column-major {{{','.join(map(str, column))}}}",
        )  # fmt: skip
    row_major = tuple(range(rank - 1, -1, -1))
    return None if order == row_major else order


def parse_literal(text: str, where: str = "value") -> Literal:
    """The value of a ``--set``: a Python literal, a dtype (``float16``, ``torch.float16``,
    ``f16``) or a bare identifier. Raises KtError KT0205."""
    try:
        return _literal(text)
    except _SpecError as exc:
        raise _located(exc, text, where) from None


def _literal(text: str) -> Literal:
    stripped = text.strip()
    if stripped.isidentifier() or stripped.startswith("torch."):
        name = stripped.removeprefix("torch.")
        if (dtype := dtypes.BY_TORCH.get(name) or dtypes.BY_NAME.get(name)) is not None:
            return dtype
    if stripped.isidentifier() and stripped not in ("None", "True", "False"):
        return Name(stripped)
    return _python_literal(stripped, text)


def _python_literal(stripped: str, text: str) -> Literal:
    import ast  # compile-time values are few; most builds never get here

    start = len(text) - len(text.lstrip())
    try:
        value = ast.literal_eval(stripped)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise _fail(
            "KT0205", f"`{stripped}` is no literal" if stripped else "an empty value", start,
            start + len(stripped),
            why="a compile-time value is a Python literal, a dtype or a name of the source file",
            remedy="quote a string: `'gelu'`",
        ) from None  # fmt: skip
    return _frozen(value, stripped, start)


def _frozen(value: object, text: str, start: int) -> Literal:
    if isinstance(value, list | tuple):
        return tuple(_frozen(item, text, start) for item in value)
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return value
    raise _fail(
        "KT0205", f"a {type(value).__name__} cannot be a compile-time value", start,
        start + len(text),
    )  # fmt: skip


# -- jaxtyping ---------------------------------------------------------------------------------

_JAXTYPING_DTYPES = {
    "Bool": dtypes.BOOL, "Int8": dtypes.I8, "UInt8": dtypes.U8, "Int16": dtypes.I16,
    "UInt16": dtypes.U16, "Int32": dtypes.I32, "UInt32": dtypes.U32, "Int64": dtypes.I64,
    "UInt64": dtypes.U64, "Float16": dtypes.F16, "BFloat16": dtypes.BF16, "Float32": dtypes.F32,
    "Float64": dtypes.F64, "Float8e4m3fn": dtypes.F8E4M3, "Float8e5m2": dtypes.F8E5M2,
    "Float4e2m1fn": dtypes.F4E2M1X2,
}  # fmt: skip

_JAXTYPING = re.compile(
    r"""^(?:[A-Za-z_]\w*\.)*(?P<dtype>[A-Za-z]\w*)\s*
        \[\s*[A-Za-z_][\w.]*\s*,\s*(?P<quote>["'])(?P<dims>[^"'\\]*)(?P=quote)\s*,?\s*\]$""",
    re.VERBOSE,
)
_OPTIONAL = re.compile(r"^(?:(?:typing|t)\.)?Optional\[(?P<inner>.*)\]$", re.DOTALL)


def parse_jaxtyping(annotation: str) -> TensorSpec | None:
    """``Float16[Tensor, "M K"]`` as a TensorSpec; None for anything that states no exact dtype
    and rank (``Float[Tensor, "..."]``, ``Float16[Tensor, "*batch K"]``, other annotations).

    Accepts module prefixes (``jaxtyping.Float16[torch.Tensor, ...]``), ``| None`` and
    ``Optional[...]`` around it, and a quoted annotation.
    """
    text = annotation.strip()
    if len(text) > 1 and text[0] in "\"'" and text[-1] == text[0]:
        text = text[1:-1].strip()
    text = re.sub(r"^None\s*\|\s*|\s*\|\s*None$", "", text)
    if (optional := _OPTIONAL.match(text)) is not None:
        text = optional.group("inner").strip()
    match = _JAXTYPING.match(text)
    if match is None or match.group("dtype") not in _JAXTYPING_DTYPES:
        return None
    dims: list[Dim] = []
    for item in match.group("dims").split():
        name, _, fixed = item.rpartition("=")  # "heads=8" names a fixed size
        if fixed.isascii() and fixed.isdigit() and int(fixed) > 0:
            dims.append(int(fixed))
        elif not name and item == "_":
            dims.append(None)
        elif not name and item.isidentifier() and item.isascii():
            dims.append(item)
        else:  # "*batch", "...", "#n", "n+1": no fixed rank, or not a plain dimension
            return None
    return TensorSpec(_JAXTYPING_DTYPES[match.group("dtype")], tuple(dims))


# -- printing ----------------------------------------------------------------------------------


def format_literal(value: Literal) -> str:
    """Source text of a compile-time value; ``parse_literal`` of it is the value again."""
    if isinstance(value, DType):
        return value.torch
    if isinstance(value, tuple):
        inner = ", ".join(format_literal(v) for v in value)
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    return str(value) if isinstance(value, Name) else repr(value)


def format_signature(signature: Signature) -> str:
    """``x=f16[M,K], y=f16[K,N]``, in the order of the mapping."""
    return ", ".join(f"{name}={spec}" for name, spec in signature.items())


def parse_signature(text: str) -> dict[str, Spec]:
    """The inverse of ``format_signature``."""
    signature: dict[str, Spec] = {}
    for item in _top_level_items(text):
        name, _, spec = item.partition("=")
        value = parse_literal(spec) if _is_bare_name(spec) else None
        signature[name.strip()] = parse_spec(spec) if value is None else LiteralSpec(value)
    return signature


def _is_bare_name(spec: str) -> bool:
    """A dtype as a value is printed with torch's name, which no SPEC has."""
    name = spec.strip()
    known = ("None", "True", "False", *dtypes.BY_NAME)
    return name.isidentifier() and name not in known


def _top_level_items(text: str) -> list[str]:
    """Split at the commas outside brackets and quotes."""
    items = [""]
    depth, quote, escaped = 0, "", False
    for char in text:
        if quote:
            quote = "" if char == quote and not escaped else quote
            escaped = char == "\\" and not escaped
        elif char in "'\"":
            quote = char
        elif char in "[({":
            depth += 1
        elif char in "])}":
            depth -= 1
        if char == "," and not depth and not quote:
            items.append("")
        else:
            items[-1] += char
    return [item for item in items if item.strip()]


# -- several signatures of one kernel ----------------------------------------------------------


def covers(first: Signature, second: Signature) -> bool:
    """True if every call that fits ``second`` also fits ``first``.

    Both must state the same parameters: what one leaves out is inferred, and not known here.
    """
    if first.keys() != second.keys():
        return False
    sizes: dict[str, Dim] = {}
    return all(_covers(first[name], second[name], sizes) for name in first)


def _covers(a: Spec, b: Spec, sizes: dict[str, Dim]) -> bool:
    if not (isinstance(a, TensorSpec) and isinstance(b, TensorSpec)):
        return a == b and type(a) is type(b) and _same_literal_type(a, b)
    if (a.dtype, a.order, len(a.dims)) != (b.dtype, b.order, len(b.dims)):
        return False
    for mine, theirs in zip(a.dims, b.dims, strict=True):
        if isinstance(mine, int):
            if mine != theirs:
                return False
        elif isinstance(mine, str):
            # One name of `a` must stand for one size of `b`; two anonymous ones may differ.
            if mine in sizes and (theirs is None or sizes[mine] != theirs):
                return False
            sizes[mine] = theirs
    return True


def _same_literal_type(a: Spec, b: Spec) -> bool:
    """``True == 1`` and ``1 == 1.0`` in Python, but they are different compile-time values."""
    if isinstance(a, LiteralSpec) and isinstance(b, LiteralSpec):
        return type(a.value) is type(b.value)
    return True


def check_dispatch(signatures: Sequence[Signature], where: str) -> list[Diagnostic]:
    """KT0206 for each signature that an earlier one makes unreachable."""
    found = []
    for j, later in enumerate(signatures):
        for i, earlier in enumerate(signatures[:j]):
            if covers(earlier, later):
                found.append(_unreachable(where, i, j, later))
                break
    return found


def _unreachable(where: str, i: int, j: int, later: Signature) -> Diagnostic:
    return Diagnostic(
        "KT0206",
        f"signature {j + 1} ({format_signature(later)}) is never reached: "
        f"signature {i + 1} takes all of its calls",
        why="calls are dispatched to the first signature that fits their dtypes, ranks, layouts "
        "and static sizes",
        remedy="remove it, or put the more special one first",
        file=where,
    )
