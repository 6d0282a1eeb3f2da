"""What C++ cannot parse in MSL is rewritten or blanked; kernel signatures are read on the way.

Lines stay where they are, so that messages and line tables of clang speak of the MSL source.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from transpile.verify.msl import templates
from transpile.verify.msl.lexer import Token, closing, split, tokens
from transpile.verify.msl.parameters import Parameter, Problem, check_parameters, read_parameter
from transpile.verify.msl.templates import (
    Instance,
    Template,
    bound,
    limit_of,
    parameter_names,
    parameters_of,
)

MOST_THREADS = 1024
_UNAVAILABLE = (
    "goto", "try", "catch", "throw", "new", "delete", "dynamic_cast", "typeid", "virtual", "double",
    "thread_local", "asm", "__asm__", "std", "malloc", "printf",
)  # fmt: skip

# Accesses of more than 16 bytes are two to a GPU; the executor could not check them.
_TOO_WIDE = ("long3", "long4", "ulong3", "ulong4")


@dataclass(frozen=True, slots=True)
class Kernel:
    """An entry point. ``call`` is the C++ expression to call: a template's name has arguments.

    ``max_threads`` is from ``[[max_total_threads_per_threadgroup(n)]]``, 1024 without it.
    """

    name: str
    call: str
    parameters: tuple[Parameter, ...]
    line: int
    max_threads: int = 1024


@dataclass(frozen=True, slots=True)
class FunctionConstant:
    """``constant T name [[function_constant(index)]];``, which becomes a macro's value."""

    name: str
    type: str
    index: int

    @property
    def macro(self) -> str:
        return f"KT_FUNCTION_CONSTANT_{self.index}"


@dataclass(slots=True)
class Translation:
    """The rewritten text and what was found in it."""

    text: str
    kernels: dict[str, Kernel]
    constants: list[FunctionConstant]
    problems: list[Problem]
    copies: list[Copy] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Copy:
    """The rewritten text of a kernel template for one of its instances: a function like any other.
    Its first line is line ``line`` of the source."""

    text: str
    line: int


def translate(source: str, house_style: bool = True) -> Translation:
    """Rewrite a file. With ``house_style`` buffer indices must be written and threadgroup variables
    stand at the top level of a kernel without an initialiser: rules for generated code.

    Raises MslSyntaxError where brackets or tokens are broken.
    """
    reader = _Reader(source, house_style)
    reader.read()
    text = reader.rewritten(0, len(source))
    kernels = reader.instantiated()
    copies = list(reader.copies())
    return Translation(text, kernels, reader.constants, sorted(reader.problems), copies)


@dataclass(slots=True)
class _Reader:
    source: str
    house_style: bool
    tokens: list[Token] = field(default_factory=list)
    edits: list[tuple[int, int, str]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    kernels: dict[str, Kernel] = field(default_factory=dict)
    templates: dict[str, Template] = field(default_factory=dict)
    instances: list[Instance] = field(default_factory=list)
    constants: list[FunctionConstant] = field(default_factory=list)
    bodies: list[tuple[int, int]] = field(default_factory=list)

    def read(self) -> None:
        self.tokens = tokens(self.source)
        self.problems += [
            Problem(t.line, f"`{t.text}` is not available in Metal")
            for t in self.tokens
            if t.kind == "name" and t.text in _UNAVAILABLE
        ]
        if self.house_style:
            self.problems += [
                Problem(t.line, f"`{t.text}` is wider than a memory access, which is 16 bytes")
                for t in self.tokens
                if t.text in _TOO_WIDE
            ]
        self._declarations()
        self._variables()
        self._constructors()
        self._attributes()
        self.problems += templates.problems(
            self.templates, self.instances, list(self.kernels), self.house_style
        )

    def rewritten(self, first: int, stop: int) -> str:
        """The text between two places, rewritten."""
        parts, last = [], first
        for start, end, text in sorted(self.edits):
            if first <= start < stop:
                parts += [self.source[last:start], text]
                last = end
        return "".join([*parts, self.source[last:stop]])

    def copies(self) -> Iterator[Copy]:
        """Each template with the arguments of each instance as types and constants."""
        for number, instance in enumerate(self.instances):
            template = self.templates.get(instance.template)
            if template is None or len(instance.arguments) != len(template.names):
                continue
            given = [
                f"using {name} = {value};"
                if kind in ("typename", "class")
                else f"constant constexpr {kind} {name} = {value};"
                for (kind, name), value in zip(template.names, instance.arguments, strict=True)
            ]
            text = self.rewritten(template.head, template.end)
            head = f"namespace kt_instance_{number} {{ {' '.join(given)} "
            line = self.source.count("\n", 0, template.head) + 1
            yield Copy(f"{head}{text} }}\n", line)

    def instantiated(self) -> dict[str, Kernel]:
        """Kernels by the name under which the host finds them."""
        found = dict(self.kernels)
        for each in self.instances:
            template = self.templates.get(each.template)
            if template is not None:
                most = limit_of(template.limit, bound(template, each), MOST_THREADS)
                parameters = parameters_of(template, each)
                found[each.name] = Kernel(each.name, each.call, parameters, each.line, most)
        return found

    def _blank(self, start: int, end: int) -> None:
        self.edits.append((start, end, re.sub(r"[^\n]", " ", self.source[start:end])))

    def _text(self, at: int) -> str:
        return self.tokens[at].text if at < len(self.tokens) else ""

    # -- kernels -------------------------------------------------------------------------------

    def _declarations(self) -> None:
        at = 0
        while at < len(self.tokens):
            if self._text(at) == "template" and self._text(at + 1) == "[[":
                at = self._instantiation(at)
            elif self._text(at) == "kernel" and self.tokens[at].kind == "name":
                at = self._kernel(at)
            at += 1

    def _instantiation(self, at: int) -> int:
        """``template [[host_name("f_half")]] kernel void f<half>(...);`` or, with the type of an
        instance, ``template [[host_name("f_half")]] [[kernel]] decltype(f<half>) f<half>;``"""
        line, host, at = self.tokens[at].line, None, at + 1
        while self._text(at) in ("[[", "kernel"):
            end = closing(self.tokens, at) if self._text(at) == "[[" else at
            words = [t.text for t in self.tokens[at : end + 1]]
            if "host_name" in words:
                strings = [t.text[1:-1] for t in self.tokens[at:end] if t.kind == "string"]
                host = "".join(strings)
            self._blank(self.tokens[at].start, self.tokens[end].end)
            at = end + 1
        end = at
        while self._text(end) != ";":
            end += 1
        declared = self.tokens[at:end]
        name = self._declared(declared)
        if name is not None:
            close = closing(declared, name + 1)
            call = self.source[declared[name].start : declared[close].end]
            given = tuple(
                self.source[part[0].start : part[-1].end]
                for part in split(declared[name + 2 : close])
            )
            self.instances.append(Instance(host, declared[name].text, given, call, line))
        return end

    @staticmethod
    def _declared(declared: Sequence[Token]) -> int | None:
        """The index of the template name that is declared: the last one with arguments before the
        parameters."""
        found, at = None, 0
        by_type = bool(declared) and declared[0].text == "decltype"
        while at + 1 < len(declared):
            if declared[at].text == "(" and found is not None and not by_type:
                break
            if declared[at].kind == "name" and declared[at + 1].text == "<":
                found = at
                at = closing(declared, at + 1)
            at += 1
        return found

    def _kernel(self, at: int) -> int:
        """``kernel void f(...) {...}``; ``[[kernel]]`` and attributes on either side will do."""
        line, start = self.tokens[at].line, at
        while start > 0 and self._text(start - 1) not in (";", "}", ">"):
            start -= 1
        before = [t.text for t in self.tokens[start:at]]
        result = at + 1
        if before.count("[[") > before.count("]]"):
            while self._text(result - 1) != "]]":
                result += 1
        while self._text(result) == "[[":
            result = closing(self.tokens, result) + 1
        if self._text(result) != "void":
            self.problems.append(
                Problem(line, f"a kernel returns void, not `{self._text(result)}`")
            )
        opening = result
        while self._text(opening) != "(":
            opening += 1
        name, end = self._text(opening - 1), closing(self.tokens, opening)
        parameters: list[Parameter] = []
        for part in split(self.tokens[opening + 1 : end]):
            parameters.append(read_parameter(part, parameters, self.house_style))
        self.problems += check_parameters(name, line, parameters)
        if self._text(end + 1) == "{":
            last = closing(self.tokens, end + 1)
            self.bodies.append((end + 1, last))
            limit = self._limit(start, opening)
            if self._text(start - 1) == ">":
                head = self._template_head(start - 1)
                self.templates[name] = Template(
                    name, parameter_names(self.tokens[head + 2 : start - 1]), tuple(parameters),
                    limit, line, self.tokens[head].start, self.tokens[start - 1].end,
                    self.tokens[last].end,
                )  # fmt: skip
            else:
                most = limit_of(limit, {}, MOST_THREADS)
                self.kernels[name] = Kernel(name, name, tuple(parameters), line, most)
        return end

    def _template_head(self, at: int) -> int:
        """Where the ``template`` stands whose parameters end here."""
        while at > 0 and self._text(at) != "template":
            at -= 1
        return at

    def _limit(self, start: int, end: int) -> tuple[str, ...]:
        for at in range(start, end):
            if self._text(at) == "max_total_threads_per_threadgroup":
                close = closing(self.tokens, at + 1)
                return tuple(t.text for t in self.tokens[at + 2 : close])
        return ()

    # -- variables -----------------------------------------------------------------------------

    def _variables(self) -> None:
        depth = 0
        for at, token in enumerate(self.tokens):
            if token.text in "()":
                depth += 1 if token.text == "(" else -1
            if depth == 0 and token.text in ("threadgroup", "alignas") and self._starts(at):
                self._threadgroup_variable(at)
            if depth > 0 and token.text in ("constant", "device", "threadgroup", "const"):
                self._array_parameter(at)
            if token.text == "function_constant" and self._text(at - 1) == "[[":
                self._function_constant(at)

    def _starts(self, at: int) -> bool:
        """Whether a statement begins here."""
        return at == 0 or self._text(at - 1) in (";", "{", "}")

    def _threadgroup_variable(self, at: int) -> None:
        end = at
        while self._text(end) not in (";", "=", "{"):
            end = (closing(self.tokens, end) if self._text(end) in ("(", "[") else end) + 1
        declared = list(self.tokens[at:end])
        words = [t.text for t in declared]
        if "alignas" in words:
            start = words.index("alignas")
            del declared[start : closing(declared, start + 1) + 1]
            words = [t.text for t in declared]
        head = words[: words.index("[")] if "[" in words else words
        if head[:1] != ["threadgroup"] or {"*", "&"} & set(head):
            return  # a pointer to it, or another variable
        line = self.tokens[at].line
        self._check_placement(at, line)
        stop = end
        if self._text(end) != ";":
            if self.house_style:
                self.problems.append(
                    Problem(line, "a threadgroup variable cannot have an initialiser")
                )
            while self._text(stop) != ";":
                stop = (closing(self.tokens, stop) if self._text(stop) == "{" else stop) + 1
        text = "; ".join(self._placed(declared))
        start, last = self.tokens[at].start, self.tokens[stop].start
        self.edits.append((start, last, text + "\n" * self.source[start:last].count("\n")))

    def _check_placement(self, at: int, line: int) -> None:
        if not any(start < at < end for start, end in self.bodies):
            self.problems.append(
                Problem(line, "a threadgroup variable stands outside of a kernel function")
            )
            return
        depth = 0
        for token in self.tokens[next(s for s, e in self.bodies if s < at < e) : at]:
            depth += (token.text == "{") - (token.text == "}")
        if self.house_style and depth > 1:
            self.problems.append(Problem(line, "a threadgroup variable stands in an inner block"))

    def _placed(self, declaration: Sequence[Token]) -> list[str]:
        """``threadgroup T a[2], b;`` as references to memory of the runtime."""
        kept = [t for t in declaration if t.text not in ("threadgroup", "volatile")]
        base, found = "", []
        for declarator in split(kept):
            at = next((i for i, t in enumerate(declarator) if t.text in ("[", "[[")), None)
            name = declarator[-1 if at is None else at - 1]
            if not base:
                base = self.source[declarator[0].start : name.start]
            dims = self.source[name.end : declarator[-1].end] if at is not None else ""
            whole = " ".join(f"{base.strip()}{dims}".split())
            found.append(f"KT_THREADGROUP({name.start}, {name.text}, {whole})")
        return found

    def _constructors(self) -> None:
        """``vec<T, 4>(...)`` constructs in Metal and casts in C++."""
        for at, token in enumerate(self.tokens):
            if token.text != "vec" or self._text(at + 1) != "<" or self._text(at - 1) == "::":
                continue
            end = closing(self.tokens, at + 1)
            if self._text(end + 1) == "(":
                self.edits.append((token.start, token.start, "kt::make<"))
                self.edits.append((self.tokens[end].end, self.tokens[end].end, ">"))

    def _array_parameter(self, at: int) -> None:
        """``constant T name[3]`` in a parameter list: C++ wants the pointer that it is."""
        if self._text(at - 1) not in ("(", ","):
            return
        end = at
        while self._text(end) not in (",", ")", ";", "*", "&", "(", "=", "{", "[", "[[", ""):
            end += 1
        words = {t.text for t in self.tokens[at:end]}
        if self._text(end) != "[" or not words & {"constant", "device", "threadgroup"}:
            return
        close = closing(self.tokens, end)
        if self._text(close + 1) in (",", ")", "[["):
            name = self.tokens[end - 1]
            self.edits.append((name.start, name.start, "*"))
            self._blank(self.tokens[end].start, self.tokens[close].end)

    def _function_constant(self, at: int) -> None:
        start = at
        while start > 0 and self._text(start - 1) not in (";", "}", "{"):
            start -= 1
        end = closing(self.tokens, at - 1)
        declared = self.tokens[start : at - 1]
        type_ = " ".join(t.text for t in declared[:-1] if t.text != "constant")
        found = FunctionConstant(declared[-1].text, type_, int(self._text(at + 2)))
        self.constants.append(found)
        if self._text(end + 1) == "=":
            self.problems.append(
                Problem(declared[-1].line, "a function constant cannot have an initialiser")
            )
        self.edits.append((self.tokens[at - 1].start, self.tokens[end].end, f"= {found.macro}"))

    def _attributes(self) -> None:
        """Blank all other attributes: clang knows none of them."""
        at = 0
        while at < len(self.tokens):
            token = self.tokens[at]
            done = any(start <= token.start < end for start, end, _ in self.edits)
            if token.text == "[[" and not done and self.tokens[at + 1].kind == "name":
                end = closing(self.tokens, at)
                words = {t.text for t in self.tokens[at:end]}
                if self._text(end) == "]]" and not words & {";", "{"}:
                    self._blank(token.start, self.tokens[end].end)
                    at = end
            elif token.text == "coherent" and self._text(at + 1) == "(":
                end = closing(self.tokens, at + 1)
                self._blank(token.start, self.tokens[end].end)
                at = end
            at += 1
