"""The strict check: clang with address spaces as types, and rules of Metal that C++ lacks."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from transpile.verify.msl import prepass, toolchain
from transpile.verify.msl.lexer import MslSyntaxError
from transpile.verify.msl.parameters import ADDRESS_SPACES, Problem

THREADGROUP_LIMIT = 32768
_CONSTANT = 2  # the number of its address space in the prelude


def check(source: str, house_style: bool = True) -> list[Problem]:
    """What Metal would not accept (and, in house style, what generated code should not contain).

    Raises ToolError without libclang.
    """
    try:
        translation = prepass.translate(source, house_style)
    except MslSyntaxError as exc:
        return [Problem(exc.lineno or 0, str(exc))]
    found = list(translation.problems)
    if not source.isascii():
        line = next(i for i, text in enumerate(source.split("\n"), 1) if not text.isascii())
        found.append(Problem(line, "the source is not ASCII"))
    defines = [f"-D{c.macro}={'true' if c.type == 'bool' else 1}" for c in translation.constants]
    text, line_of = _with_copies(translation)
    unit = _parse(text, defines)
    complaints = list(_complaints(unit))
    found += [Problem(line_of(p.line), p.message) for p in complaints]
    if not complaints:
        walked = _Walk(text, house_style).problems(unit.cursor)
        found += [Problem(line_of(p.line), p.message) for p in walked]
    return sorted(set(found))


def _with_copies(translation: prepass.Translation) -> tuple[str, Callable[[int], int]]:
    """The text with the instances of templates as functions after it, of which all types are known,
    and what lines of it are lines of the source."""
    text = translation.text if translation.text.endswith("\n") else f"{translation.text}\n"
    starts: list[tuple[int, int]] = [(1, 1)]
    for copy in translation.copies:
        starts.append((text.count("\n") + 1, copy.line))
        text += copy.text

    def line_of(line: int) -> int:
        at, source = next(s for s in reversed(starts) if s[0] <= max(1, line))
        return line - at + source

    return text, line_of


@functools.cache
def _clang() -> Any:
    try:
        from clang import cindex
    except ImportError:
        raise toolchain.ToolError(
            "the strict Metal check needs `pip install libclang==18.1.1`"
        ) from None
    return cindex


@functools.cache
def _index() -> Any:
    return _clang().Index.create()


def _parse(text: str, defines: Sequence[str]) -> Any:
    name = toolchain.SOURCE_NAME
    return _index().parse(name, args=[*toolchain.STRICT, *defines], unsaved_files=[(name, text)])


# -- what clang says ---------------------------------------------------------------------------


def _complaints(unit: Any) -> Iterator[Problem]:
    for diagnostic in unit.diagnostics:
        text = diagnostic.spelling
        narrowed = diagnostic.option.startswith("-Wimplicit-float-conversion") and (
            re.search(r"to '(bfloat|__bf16)", text) is not None
        )
        if (diagnostic.severity >= 3 and not _copies_between_spaces(diagnostic)) or narrowed:
            yield Problem(*_own_place(diagnostic, text))


def _copies_between_spaces(diagnostic: Any) -> bool:
    """Metal copies a struct from one address space to another; C++ has no constructor for it."""
    complaints = ("no matching constructor for initialization", "no viable overloaded '='")
    if not any(text in diagnostic.spelling for text in complaints):
        return False
    notes = [note.spelling for note in diagnostic.children]
    return any("implicit copy" in note and "address space" in note for note in notes)


def _own_place(diagnostic: Any, text: str) -> tuple[int, str]:
    """A complaint about the library's text belongs to the line that uses it."""
    place = diagnostic.location
    if str(place.file) == toolchain.SOURCE_NAME:
        return place.line, text
    for note in diagnostic.children:
        own = str(note.location.file) == toolchain.SOURCE_NAME
        if own and not note.spelling.startswith("in file included"):
            return note.location.line, text
    return place.line, f"{text} (in {place.file})"


# -- what only Metal says ----------------------------------------------------------------------


class _Walk:
    """Goes over the syntax tree of the user's own text."""

    def __init__(self, text: str, house_style: bool) -> None:
        self.text = text
        self.house_style = house_style
        self.found: list[Problem] = []
        self.threadgroup_bytes: dict[tuple[str, int], int] = {}

    def problems(self, root: Any) -> list[Problem]:
        self._visit(root)
        for (name, line), size in self.threadgroup_bytes.items():
            if size > THREADGROUP_LIMIT:
                self._note(
                    line, f"kernel `{name}` uses {size} bytes of threadgroup memory, "
                    f"the limit is {THREADGROUP_LIMIT}",
                )  # fmt: skip
        return self.found

    def _note(self, line: int, message: str) -> None:
        self.found.append(Problem(line, message))

    def _visit(self, parent: Any) -> None:
        kinds = _clang().CursorKind
        checks = {
            kinds.CSTYLE_CAST_EXPR: self._cast,
            kinds.CXX_FUNCTIONAL_CAST_EXPR: self._cast,
            kinds.FUNCTION_DECL: self._function,
            kinds.CXX_METHOD: self._function,
            kinds.FUNCTION_TEMPLATE: self._function,
            kinds.VAR_DECL: self._variable,
            kinds.PARM_DECL: self._pointer,
            kinds.FIELD_DECL: self._pointer,
            kinds.LAMBDA_EXPR: self._lambda,
        }
        for cursor in parent.get_children():
            place = cursor.location.file
            if place is not None and place.name != toolchain.SOURCE_NAME:
                continue
            if cursor.kind in checks:
                checks[cursor.kind](cursor)
            self._visit(cursor)

    def _lambda(self, cursor: Any) -> None:
        if self.house_style:
            self._note(cursor.location.line, "lambda expressions are new in Metal 3.2")

    def _cast(self, cursor: Any) -> None:
        kinds, types = _clang().CursorKind, _clang().TypeKind
        target = cursor.type.get_canonical()
        if _kind(target) != types.POINTER:
            return
        value = list(cursor.get_children())[-1]
        source = value.type.get_canonical()
        if _kind(source) != types.POINTER or value.kind == kinds.CXX_NULL_PTR_LITERAL_EXPR:
            return
        spaces = [t.get_pointee().get_address_space() for t in (source, target)]
        if spaces[0] != spaces[1]:
            self._note(
                cursor.location.line,
                f"cast from `{_spelled(source)}` to `{_spelled(target)}` changes the address space",
            )

    def _function(self, cursor: Any) -> None:
        if not cursor.is_definition():
            return
        kinds = _clang().CursorKind
        seen: set[int] = set()
        waiting = [cursor]
        while waiting:
            for inner in waiting.pop().walk_preorder():
                if inner.kind != kinds.CALL_EXPR or inner.referenced is None:
                    continue
                called = inner.referenced.get_definition()
                place = called.location.file if called is not None else None
                own = place is not None and place.name == toolchain.SOURCE_NAME
                if own and called.hash not in seen:
                    seen.add(called.hash)
                    waiting.append(called)
        if cursor.hash in seen:
            self._note(cursor.location.line, f"function `{cursor.spelling}` is recursive")

    def _variable(self, cursor: Any) -> None:
        clang = _clang()
        self._pointer(cursor)
        outside = (clang.CursorKind.TRANSLATION_UNIT, clang.CursorKind.NAMESPACE)
        type_ = cursor.type.get_canonical()
        if cursor.lexical_parent.kind in outside:
            if f"address_space({_CONSTANT})" not in type_.spelling:
                self._note(
                    cursor.location.line,
                    f"program-scope variable `{cursor.spelling}` is not in address space constant",
                )
        elif cursor.storage_class == clang.StorageClass.STATIC and self._local(cursor):
            self._note(cursor.location.line, f"local variable `{cursor.spelling}` is static")
        if self._placed(cursor):
            function = cursor.lexical_parent
            key = function.spelling, function.location.line
            size = (type_.get_pointee().get_size() + 15) // 16 * 16
            self.threadgroup_bytes[key] = self.threadgroup_bytes.get(key, 0) + size

    def _local(self, cursor: Any) -> bool:
        """Whether the variable is declared in a function."""
        kinds = _clang().CursorKind
        functions = (kinds.FUNCTION_DECL, kinds.CXX_METHOD, kinds.FUNCTION_TEMPLATE)
        return cursor.lexical_parent.kind in functions

    def _placed(self, cursor: Any) -> bool:
        """Whether the pre-pass made this reference from a threadgroup variable."""
        start = cursor.extent.start.offset
        return self.text.startswith("KT_THREADGROUP", start)

    def _pointer(self, cursor: Any) -> None:
        """A pointer or reference names its address space."""
        types = _clang().TypeKind
        if _kind(cursor.type) not in (types.POINTER, types.LVALUEREFERENCE):
            return
        words = {token.spelling for token in cursor.get_tokens()}
        if not words & {"*", "&"} or words & {*ADDRESS_SPACES, "auto"} or self._placed(cursor):
            return
        # `thread` is an empty macro: where it comes first, it stands before the declaration.
        before = self.text[: cursor.extent.start.offset]
        if not re.search(r"\bthread\s+(?:(?:const|volatile)\s+)*$", before):
            self._note(
                cursor.location.line,
                f"pointer or reference `{cursor.spelling}` names no address space",
            )


def _kind(type_: Any) -> Any:
    """None for kinds that the bindings have no name for, such as bfloat."""
    try:
        return type_.kind
    except ValueError:
        return None


_SPACES = {"1": "device", "2": "constant", "3": "threadgroup"}


def _spelled(type_: Any) -> str:
    """The type as Metal writes it."""
    return re.sub(
        r"__attribute__\(\(address_space\((\d)\)\)\)",
        lambda match: _SPACES.get(match.group(1), "thread"),
        type_.spelling,
    )
