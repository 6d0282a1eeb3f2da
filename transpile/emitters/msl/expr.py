"""Expressions of the thread IR in Metal Shading Language."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from transpile.emitters.msl import helpers, ops
from transpile.emitters.msl.arguments import Arguments
from transpile.emitters.msl.dtypes import computes, exists, is_byte_float, number, spelled
from transpile.emitters.msl.numbers import Text, enclosed
from transpile.emitters.msl.ops import ATOM, LAND, LOR, POSTFIX, TERNARY, UNARY, Spelling
from transpile.emitters.msl.signs import Signs
from transpile.ir.diagnostics import KtError, error
from transpile.ir.dtypes import (
    BF16,
    BOOL,
    F4E2M1X2,
    F8E4M3,
    F16,
    F32,
    I8,
    I16,
    U8,
    U16,
    DType,
)
from transpile.ir.ir import Span, Tensor
from transpile.thread import ir
from transpile.thread.merge import Different, TypeParam
from transpile.thread.named import Named, is_open

_IDS = {
    "thread": ("tid", ATOM),
    "lane": ("lane", ATOM),
    "simdgroup": ("sg", ATOM),
    "group_x": ("int(tgid.x)", ATOM),
    "group_y": ("int(tgid.y)", ATOM),
    "group_z": ("int(tgid.z)", ATOM),
}
_COMPONENTS = "xyzw"
LONGEST = len(_COMPONENTS)  # Metal's vectors have no more components


def is_pack(width: int) -> bool:
    """Whether so many elements, or a number that differs from type to type, are copied as a struct;
    others are vectors."""
    return width > LONGEST or is_open(width)


def directly(source: DType, target: DType) -> bool:
    """Whether one converts to the other at once: bfloats convert to and from float only."""
    return (computes(source) and computes(target)) or F32 in (source, target)


class Expressions:
    """Prints expressions; remembers what parameters, helpers and includes they need."""

    def __init__(self, arguments: Arguments) -> None:
        self.arguments = arguments
        self.signs = Signs(arguments.kernel.body)
        self.names: dict[ir.Var, str] = {}
        self.numbers = arguments.numbers
        self.helpers: set[str] = set()
        self.made: dict[str, str] = {}  # helpers made for one use, by name
        self.ids: set[str] = set()
        self.includes: set[str] = set()
        self.needs: dict[str, Span | None] = {}  # features of families of GPUs, and where
        self.read: set[Tensor] = set()
        self.written: set[Tensor] = set()
        self.aligned: set[Tensor] = set()  # accessed in vectors: they must begin at 16 bytes
        self.buffers: dict[ir.SharedBuffer, str] = {}
        self.span: Span | None = None  # of the statement that is being printed
        self.holding: frozenset[ir.Expr] = frozenset()  # conditions that are true here

    @contextmanager
    def knowing(self, conditions: frozenset[ir.Expr]) -> Iterator[None]:
        """Within it these conditions hold, and loads need not ask for them."""
        before, self.holding = self.holding, conditions
        try:
            yield
        finally:
            self.holding = before

    def text(self, expr: ir.Expr, need: int = 0) -> str:
        """The expression, in parentheses if it binds looser than ``need``."""
        return enclosed(self.of(expr), need)

    def of(self, expr: ir.Expr) -> Text:
        """The expression and its precedence."""
        return _PRINT[type(expr)](self, expr)

    # -- leaves --------------------------------------------------------------------------------

    def _const(self, expr: ir.Const) -> Text:
        if isinstance(expr.value, Named):
            return self.numbers.of(expr.value)
        text = number(expr.value, self.dtype(expr.dtype))
        return text, UNARY if text.startswith("-") else ATOM

    def _extent(self, expr: ir.Extent) -> Text:
        return self.arguments.size(expr.size, expr.dtype)

    def _host_scalar(self, expr: ir.HostScalar) -> Text:
        return self.arguments.scalar(expr.name, expr.dtype)

    def _id(self, expr: ir.Id) -> Text:
        self.ids.add("tgid" if expr.kind.startswith("group") else _IDS[expr.kind][0])
        return _IDS[expr.kind]

    def _var(self, expr: ir.Var) -> Text:
        return self.names[expr], ATOM

    # -- types ---------------------------------------------------------------------------------

    def dtype(self, dtype: DType) -> DType:
        """The dtype, if this target has it."""
        if not exists(dtype):
            raise error(
                "KT0610", f"{dtype.name} does not exist on Metal", self.span,
                why="Apple GPUs have no 64-bit floats",
                remedy="convert to float32 in the kernel, or build for a target that has them",
            )  # fmt: skip
        return dtype

    def type(self, dtype: DType, width: int = 1) -> str:
        """The name of a scalar or vector type; longer than 4 it is a struct that is copied."""
        name = spelled(self.dtype(dtype))
        if is_pack(width):
            self.helpers.add("Pack")
            return f"Pack<{name}, {self.numbers.text(width)}>"
        if width == 1:
            return name
        return f"vec<{name}, {width}>" if isinstance(dtype, TypeParam) else f"{name}{width}"

    def unsupported(self, what: str, why: str, remedy: str = "") -> KtError:
        return error("KT0602", f"{what} is not available on Metal", self.span, why=why,
                     remedy=remedy)  # fmt: skip

    # -- registers -----------------------------------------------------------------------------

    def place_of(self, expr: ir.Var | ir.Element) -> str:
        """A variable or an entry of an array, as something to assign; a matrix as it is."""
        if isinstance(expr, ir.Element) and expr.component is None:
            return self.names[expr.array] + "".join(f"[{self.text(i)}]" for i in expr.index)
        return self.text(expr)

    def _element(self, expr: ir.Element) -> Text:
        text = self.names[expr.array] + "".join(f"[{self.text(i)}]" for i in expr.index)
        if expr.component is None:
            if expr.array.fragment is None:
                return text, POSTFIX
            width = expr.array.fragment.width
            both = ", ".join(f"{text}.thread_elements()[{c}]" for c in range(width))
            return f"{self.type(expr.array.dtype, width)}({both})", ATOM
        at = expr.component
        if expr.array.fragment is not None:
            return f"{text}.thread_elements()[{self.text(at)}]", POSTFIX
        if expr.array.components == 1:
            return text, POSTFIX
        if is_pack(expr.array.components):
            return f"{text}.v[{self.text(at)}]", POSTFIX
        if isinstance(at, ir.Const) and expr.array.dtype != BOOL:
            return f"{text}.{_COMPONENTS[int(at.value)]}", POSTFIX
        return f"{text}[{self.text(at)}]", POSTFIX

    # -- operations ----------------------------------------------------------------------------

    def _apply(self, expr: ir.Apply) -> Text:
        dtype = self.dtype(expr.args[-1].dtype)
        spelling = self._spelling(expr, dtype)
        if spelling.helper:
            self._use(spelling.helper, dtype)
        if (dtype.is_float and not computes(dtype)) or (dtype == F16 and not spelling.native):
            return self._widened(expr, spelling, dtype)
        needs = self._needs(expr, spelling)
        args = [self.text(a, need) for a, need in zip(expr.args, needs, strict=False)]
        text = spelling.template.format(*args), spelling.prec
        narrow = expr.dtype in (I8, U8, I16, U16)  # C++ computes those in int
        return (f"{spelled(expr.dtype)}({text[0]})", ATOM) if narrow else text

    def _spelling(self, expr: ir.Apply, dtype: DType) -> Spelling:
        divides = expr.name in ops.PLAIN_DIVISION and dtype.is_int
        if divides and all(self.signs.non_negative(a) for a in expr.args):
            return ops.PLAIN_DIVISION[expr.name]
        table = ops.BOOLS if dtype.is_bool else ops.INTEGERS if dtype.is_int else ops.FLOATS
        spelling = table.get(expr.name)
        if spelling is None:
            raise self.unsupported(f"`{expr.name}` of {dtype.name}", "Metal has no such operation")
        return spelling

    @staticmethod
    def _needs(expr: ir.Apply, spelling: Spelling) -> list[int]:
        """Precedences of the operands; && inside of || is put in parentheses."""
        needs = list(spelling.needs)
        if expr.dtype.is_int and expr.name in ("add", "mul") and len(needs) > 1:
            needs[1] = spelling.prec  # a + (b + c) is a + b + c
        if spelling.prec == LOR:
            needs = [n if _is_operator(a, "lor", "or") else LAND + 1
                     for n, a in zip(needs, expr.args, strict=False)]  # fmt: skip
        return needs

    def _widened(self, expr: ir.Apply, spelling: Spelling, dtype: DType) -> Text:
        """A 16-bit operation in f32, rounded after it."""
        args = []
        for arg, need in zip(expr.args, self._needs(expr, spelling), strict=False):
            if arg.dtype == dtype:
                args.append(self.widened(arg))
            else:
                args.append(self.text(arg, need))
        text = spelling.template.format(*args)
        if expr.dtype != dtype:  # a condition
            return text, spelling.prec
        return f"{spelled(dtype)}({text})", ATOM

    def widened(self, arg: ir.Expr) -> str:
        """A 16-bit value as a float."""
        if isinstance(arg, ir.Const):
            return self.text(ir.Const(arg.value, F32), UNARY)
        return f"float({self.text(arg)})"

    def _use(self, helper: str, dtype: DType) -> None:
        if helper == "floor_mod" and dtype.is_float:
            helper = "floor_mod_float"
        self.helpers.add(helper)

    def count(self, expr: ir.Expr, width: int) -> str:
        """How many components of a vector exist: helpers count in 32 bits."""
        if expr.dtype.bits <= 32:
            return self.text(expr)
        return f"int(min({self.text(expr)}, {number(width, expr.dtype)}))"

    def _convert(self, expr: ir.Convert) -> Text:
        if isinstance(expr.value, ir.Id) and expr.value.kind.startswith("group"):
            self.ids.add("tgid")
            return f"{spelled(expr.dtype)}(tgid.{expr.value.kind[-1]})", ATOM
        source, target = self.dtype(expr.value.dtype), self.dtype(expr.dtype)
        if expr.bitcast:
            if spelled(source) == spelled(target):
                return self.of(expr.value)
            return f"as_type<{spelled(target)}>({self.text(expr.value)})", ATOM
        if source == target:
            return self.of(expr.value)
        if isinstance(expr.value, ir.Const) and not is_byte_float(target):
            return self._constant(expr.value.value, target)
        if is_byte_float(source) or is_byte_float(target):
            return self._bytes(expr.value, source, target)
        if target == BOOL:
            zero = number(0, source if computes(source) else F32)
            plain = self.text(expr.value, ops.ADD)
            value = plain if computes(source) else self.widened(expr.value)
            return f"{value} != {zero}", ops.EQUAL
        if not directly(source, target):
            return f"{spelled(target)}(float({self.text(expr.value)}))", ATOM
        return f"{spelled(target)}({self.text(expr.value)})", ATOM

    def _constant(self, value: bool | int | float, dtype: DType) -> Text:
        if dtype.is_bool:
            value = bool(value)
        elif dtype.is_int:
            value = int(value)
            value = (value + (1 << dtype.bits - 1)) % (1 << dtype.bits) - (1 << dtype.bits - 1) \
                if dtype.signed else value % (1 << dtype.bits)  # fmt: skip
        return self.of(ir.Const(value, dtype))

    def _bytes(self, value: ir.Expr, source: DType, target: DType) -> Text:
        """To or from an 8-bit float, which is a byte here."""
        if F4E2M1X2 in (source, target):
            raise self.unsupported(
                "conversion of f4e2m1x2", "a byte of it holds two numbers",
                "view the tensor as uint8 and decode its halves in the kernel",
            )  # fmt: skip
        text = self.text(value)
        if is_byte_float(source):
            helper = "e4m3_to_float" if source == F8E4M3 else "e5m2_to_float"
            self.helpers.add(helper)
            text = f"{helper}({text})"
        elif source != F32:
            text = f"float({text})"
        if is_byte_float(target):
            helper = "float_to_e4m3" if target == F8E4M3 else "float_to_e5m2"
            self.helpers.add(helper)
            return f"{helper}({text})", ATOM
        return (text, ATOM) if target == F32 else (f"{spelled(target)}({text})", ATOM)

    def _random(self, expr: ir.Random) -> Text:
        self.helpers.add("kt_philox")
        text = f"kt_philox({self.text(expr.seed)}, {self.text(expr.offset)})"
        if expr.kind == "uniform":
            self.helpers.add("kt_uniform")
            return f"kt_uniform({text})", ATOM
        return f"int({text})", ATOM

    # -- memory --------------------------------------------------------------------------------

    def pointer(self, tensor: Tensor, offset: ir.Expr) -> Text:
        """The address of an element."""
        name = self.arguments.tensors[tensor]
        if isinstance(offset, ir.Const) and offset.value == 0:
            return name, ATOM
        return f"{name} + {self.text(offset, ops.ADD)}", ops.ADD

    def vector_at(self, tensor: Tensor, offset: ir.Expr, width: int, const: str) -> str:
        """A vector in device memory, as something to read or assign."""
        pointer = enclosed(self.pointer(tensor, offset), UNARY)
        return f"*({const}device {self.type(tensor.dtype, width)}*){pointer}"

    def access(self, what: str, width: int, *, first: bool, aligned: bool) -> str:
        """The helper that loads or stores a vector anywhere, or the ``first`` elements of one."""
        function = helpers.access(what, pack=is_pack(width), first=first, aligned=aligned)
        self.helpers.add(function)
        return f"{function}<{self.numbers.text(width)}>"

    def _load(self, expr: ir.Load) -> Text:
        with self.knowing(self.holding | set(conjuncts(expr.guard))):
            text, other = self._read(expr)
        guard = ir.both([c for c in conjuncts(expr.guard) if c not in self.holding])
        if guard is None:
            return text
        return f"{self.text(guard, LOR)} ? {text[0]} : {other}", TERNARY

    def _read(self, expr: ir.Load) -> tuple[Text, str]:
        """What is read, and what stands for it where it is not."""
        self.read.add(expr.tensor)
        if expr.vector > 1 and expr.aligned:
            self.aligned.add(expr.tensor)
        dtype = self.dtype(expr.dtype)
        name = self.arguments.tensors[expr.tensor]
        if expr.vector == 1:
            text, prec = f"{name}[{self.text(expr.offset)}]", POSTFIX
            other = number(expr.other, dtype)
        elif expr.count is not None:
            function = self.access("load", expr.vector, first=True, aligned=expr.aligned)
            value = number(expr.other, dtype)
            arguments = [
                self.pointer(expr.tensor, expr.offset)[0],
                self.count(expr.count, expr.width),
            ]
            if expr.other != 0:
                plain = dtype in (I8, U8, I16, U16)  # literals have no such type
                arguments.append(f"{spelled(dtype)}({value})" if plain else value)
            text, prec = f"{function}({', '.join(arguments)})", ATOM
            other = self._all(dtype, expr.vector, value)
        else:
            if expr.aligned:
                text = self.vector_at(expr.tensor, expr.offset, expr.vector, "const ")
                prec = UNARY
            else:
                pointer = self.pointer(expr.tensor, expr.offset)[0]
                function = self.access("load", expr.vector, first=False, aligned=False)
                text, prec = f"{function}({pointer})", ATOM
            other = self._all(dtype, expr.vector, number(expr.other, dtype))
        return (text, prec), other

    def _all(self, dtype: DType, width: int, value: str) -> str:
        """A vector with the value in all components."""
        kind = self.type(dtype, width)
        return f"{kind}{{}}" if is_pack(width) else f"{kind}({value})"

    def place(self, buffer: ir.SharedBuffer, index: tuple[ir.Expr, ...]) -> str:
        """An element of threadgroup memory."""
        return self.buffers[buffer] + "".join(f"[{self.text(i)}]" for i in index)

    def shared_vector(self, buffer: ir.SharedBuffer, index: tuple[ir.Expr, ...], width: int) -> str:
        """A vector in threadgroup memory, as something to read or assign."""
        cast = f"(threadgroup {self.type(buffer.dtype, width)}*)"
        return f"*{cast}&{self.place(buffer, index)}"

    def _shared_load(self, expr: ir.SharedLoad) -> Text:
        if expr.vector == 1:
            text, prec = self.place(expr.buffer, expr.index), POSTFIX
        else:
            text, prec = self.shared_vector(expr.buffer, expr.index, expr.vector), UNARY
        if expr.guard is None:
            return text, prec
        zero = number(0, expr.dtype)
        other = self._all(expr.dtype, expr.vector, zero) if expr.vector > 1 else zero
        return f"{self.text(expr.guard, LOR)} ? {text} : {other}", TERNARY

    # -- other lanes ---------------------------------------------------------------------------

    def _shuffle(self, expr: ir.Shuffle) -> Text:
        dtype = self.dtype(expr.dtype)
        kind = "" if expr.kind == "index" else f"_{expr.kind}"
        by = self.text(expr.by)
        if dtype.is_int and dtype.bits == 64:
            helper = f"shuffle{kind}_{spelled(dtype)}"
            self.helpers.add(helper)
            return f"shuffle{kind}({self.text(expr.value)}, {by})", ATOM
        if dtype == BOOL:
            return f"bool(simd_shuffle{kind}(ushort({self.text(expr.value)}), {by}))", ATOM
        if isinstance(dtype, TypeParam) and dtype.is_int:
            raise Different("lanes exchange 64 bits in halves")
        if isinstance(dtype, TypeParam):  # bfloats cannot be exchanged, and a float holds them all
            value = f"float({self.text(expr.value)})"
            return f"{spelled(dtype)}(simd_shuffle{kind}({value}, {by}))", ATOM
        if dtype == BF16:
            value = f"as_type<ushort>({self.text(expr.value)})"
            return f"as_type<bfloat>(simd_shuffle{kind}({value}, {by}))", ATOM
        return f"simd_shuffle{kind}({self.text(expr.value)}, {by})", ATOM

    def _lane_reduce(self, expr: ir.LaneReduce) -> Text:
        dtype = self.dtype(expr.dtype)
        whole = expr.xors == tuple(1 << i for i in range(5))
        wide = dtype.is_int and dtype.bits == 64
        if dtype.is_float and not computes(dtype):
            widened = ir.LaneReduce(expr.name, ir.Convert(expr.value, F32), expr.xors)
            return f"{spelled(dtype)}({self.text(widened)})", ATOM
        function = ops.SIMD_REDUCTIONS.get(expr.name)
        if function is None:
            raise self.unsupported(f"`{expr.name}` over lanes", "Metal has no such function")
        if whole and not wide:
            if dtype.is_float and expr.name in ("max", "min"):
                function = f"simd_nan_{expr.name}"
                self.helpers.add(function)
            return f"{function}({self.text(expr.value)})", ATOM
        name = expr.name
        if dtype.is_float and name in ("max", "min"):
            name = f"nan_{name}"
            self.helpers.add(name)
        if wide:
            self.helpers.add(f"shuffle_xor_{spelled(dtype)}")
        call, function, self.made[function] = helpers.butterfly(name, expr.xors, wide=wide)
        return f"{call}({self.text(expr.value)})", ATOM

    def _lane_scan(self, expr: ir.LaneScan) -> Text:
        function = {"sum": "sum", "prod": "product"}[expr.name]
        return f"simd_prefix_exclusive_{function}({self.text(expr.value)})", ATOM


def conjuncts(guard: ir.Expr | None) -> Iterator[ir.Expr]:
    """The conditions that all have to hold."""
    if isinstance(guard, ir.Apply) and guard.name == "land":
        yield from conjuncts(guard.args[0])
        yield from conjuncts(guard.args[1])
    elif guard is not None:
        yield guard


def _is_operator(expr: ir.Expr, *names: str) -> bool:
    return isinstance(expr, ir.Apply) and expr.name in names


_PRINT: dict[type[ir.Expr], Callable[[Expressions, Any], Text]] = {
    ir.Const: Expressions._const,
    ir.Extent: Expressions._extent,
    ir.HostScalar: Expressions._host_scalar,
    ir.Id: Expressions._id,
    ir.Var: Expressions._var,
    ir.Element: Expressions._element,
    ir.Apply: Expressions._apply,
    ir.Convert: Expressions._convert,
    ir.Random: Expressions._random,
    ir.Load: Expressions._load,
    ir.SharedLoad: Expressions._shared_load,
    ir.Shuffle: Expressions._shuffle,
    ir.LaneReduce: Expressions._lane_reduce,
    ir.LaneScan: Expressions._lane_scan,
}
