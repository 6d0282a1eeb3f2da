"""Parameters of kernels: their attributes, and what Metal says about them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from transpile.verify.msl.lexer import Token

ADDRESS_SPACES = ("device", "constant", "threadgroup", "thread")
MOST_BUFFERS = 31

#: attribute -> (row of the runtime's table of values, the numbers of components it may have)
ATTRIBUTES: dict[str, tuple[int, tuple[int, ...]]] = {
    "thread_position_in_grid": (0, (1, 2, 3)),
    "threadgroup_position_in_grid": (1, (1, 2, 3)),
    "thread_position_in_threadgroup": (2, (1, 2, 3)),
    "threads_per_threadgroup": (3, (1, 2, 3)),
    "dispatch_threads_per_threadgroup": (3, (1, 2, 3)),
    "threadgroups_per_grid": (4, (1, 2, 3)),
    "threads_per_grid": (5, (1, 2, 3)),
    "grid_size": (5, (1, 2, 3)),
    "thread_index_in_threadgroup": (6, (1,)),
    "thread_index_in_simdgroup": (7, (1,)),
    "simdgroup_index_in_threadgroup": (8, (1,)),
    "simdgroups_per_threadgroup": (9, (1,)),
    "dispatch_simdgroups_per_threadgroup": (9, (1,)),
    "threads_per_simdgroup": (10, (1,)),
    "thread_execution_width": (10, (1,)),
    "grid_origin": (11, (1, 2, 3)),
    "quadgroup_index_in_threadgroup": (12, (1,)),
    "thread_index_in_quadgroup": (13, (1,)),
}


class Problem(NamedTuple):
    """Something that Metal does not accept."""

    line: int
    message: str


@dataclass(frozen=True, slots=True)
class Parameter:
    """``space T name [[attribute(argument)]]``; ``type`` without qualifiers."""

    name: str
    line: int
    space: str | None
    type: str
    pointer: bool
    attribute: str | None
    argument: str | None
    coherent: bool = False

    @property
    def buffer(self) -> int | None:
        """The n of ``[[buffer(n)]]``."""
        return int(self.argument or 0) if self.attribute == "buffer" else None


def read_parameter(
    part: Sequence[Token], earlier: Sequence[Parameter], house_style: bool
) -> Parameter:
    """One parameter of a kernel. Without the house style, buffers without an index are counted."""
    at = next((i for i, t in enumerate(part) if t.text == "[["), len(part))
    declared, attributes = list(part[:at]), part[at:]
    subscript = next((i for i, t in enumerate(declared) if t.text == "["), len(declared))
    words = [t.text for t in declared[:subscript]]
    pointer = bool({"*", "&"} & set(words)) or subscript < len(declared)
    space = next((w for w in words if w in ADDRESS_SPACES), None)
    skipped = {*ADDRESS_SPACES, "const", "volatile", "metal", "coherent"}
    names = [
        t.text for t in declared[: subscript - 1] if t.kind == "name" and t.text not in skipped
    ]
    attribute = attributes[1].text if attributes else None
    argument = attributes[3].text if attributes and attributes[2].text == "(" else None
    if attribute is None and pointer and not house_style:
        attribute = "threadgroup" if space == "threadgroup" else "buffer"
        used = [int(p.argument or 0) for p in earlier if p.attribute == attribute]
        argument = str(max(used, default=-1) + 1)
    coherent = bool({"volatile", "coherent"} & set(words))
    return Parameter(
        words[-1], declared[0].line, space, " ".join(names), pointer, attribute, argument, coherent
    )


def check_parameters(kernel: str, line: int, parameters: Sequence[Parameter]) -> list[Problem]:
    """What is wrong with a kernel's parameters."""
    found = [Problem(p.line, text) for p in parameters for text in _problems(p)]
    for attribute in ("buffer", "threadgroup"):
        counts = Counter(p.argument for p in parameters if p.attribute == attribute)
        found += [
            Problem(line, f"[[{attribute}({index})]] is used twice in kernel `{kernel}`")
            for index, count in counts.items()
            if count > 1
        ]
    return found


def _problems(p: Parameter) -> Iterator[str]:
    if p.pointer and p.space is None:
        yield f"parameter `{p.name}` is a pointer or reference without an address space"
    if p.attribute is None:
        wanted = " [[buffer(n)]]" if p.pointer else ""
        yield f"parameter `{p.name}` has no{wanted} attribute"
    elif p.attribute in ("buffer", "threadgroup"):
        yield from _memory_problems(p)
    elif p.attribute not in ATTRIBUTES:
        yield f"unknown attribute [[{p.attribute}]]"
    else:
        match = re.fullmatch(r"(?:uint|ushort)([23]?)|uint32_t|uint16_t", p.type)
        if match is None:
            yield f"[[{p.attribute}]] is uint or ushort (or a vector of them), not `{p.type}`"
        elif int(match.group(1) or 1) not in ATTRIBUTES[p.attribute][1]:
            yield f"[[{p.attribute}]] is no vector"


def _memory_problems(p: Parameter) -> Iterator[str]:
    if not p.pointer:
        yield f"[[{p.attribute}]] parameter `{p.name}` is neither a pointer nor a reference"
    if not (p.argument or "").isdigit() or int(p.argument or 0) >= MOST_BUFFERS:
        yield f"[[{p.attribute}({p.argument})]] has no index from 0 to {MOST_BUFFERS - 1}"
    spaces = ("threadgroup",) if p.attribute == "threadgroup" else ("device", "constant")
    if p.pointer and p.space not in (None, *spaces):
        yield f"[[{p.attribute}]] parameter `{p.name}` is in address space `{p.space}`"
