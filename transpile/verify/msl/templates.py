"""Kernel templates of MSL: what their instances are, checked before clang sees them.

Instances are declared with the name that the host knows them by::

    template [[host_name("f_half")]] [[kernel]] decltype(f<half, 4>) f<half, 4>;
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from transpile.verify.msl.lexer import Token, split
from transpile.verify.msl.parameters import Parameter, Problem

_NUMBER = re.compile(r"(\d+)[uUlL]*")


@dataclass(frozen=True, slots=True)
class Template:
    """A kernel template. ``names`` are its parameters, (``typename`` or another type, name);
    ``limit`` is what ``[[max_total_threads_per_threadgroup(...)]]`` says; ``start``, ``head`` and
    ``end`` are where it begins, where its parameters end and where its body does."""

    name: str
    names: tuple[tuple[str, str], ...]
    parameters: tuple[Parameter, ...]
    limit: tuple[str, ...]
    line: int
    start: int
    head: int
    end: int


@dataclass(frozen=True, slots=True)
class Instance:
    """An explicit instantiation; ``host`` is None without ``[[host_name]]``."""

    host: str | None
    template: str
    arguments: tuple[str, ...]
    call: str
    line: int

    @property
    def name(self) -> str:
        """What the host calls it."""
        return self.host or self.template


def parameter_names(tokens: Sequence[Token]) -> tuple[tuple[str, str], ...]:
    """``typename T, short N = 4`` as pairs."""
    found = []
    for part in split(tokens):
        words = [t.text for t in part]
        words = words[: words.index("=")] if "=" in words else words
        found.append((" ".join(words[:-1]), words[-1]))
    return tuple(found)


def bound(template: Template, instance: Instance) -> dict[str, str]:
    """The arguments of an instance by parameter; parameters with defaults may be missing."""
    return dict(zip((name for _, name in template.names), instance.arguments, strict=False))


def parameters_of(template: Template, instance: Instance) -> tuple[Parameter, ...]:
    """The kernel's parameters with the types of an instance."""
    types = bound(template, instance)
    return tuple(
        dataclasses.replace(p, type=" ".join(types.get(w, w) for w in p.type.split()))
        for p in template.parameters
    )


def limit_of(words: Sequence[str], values: dict[str, str], most: int) -> int:
    """The number of threads that an attribute allows; ``most`` where it says nothing, or nothing
    that is known here."""
    terms = [values.get(word, word) for word in words]
    if not terms or not all(_NUMBER.fullmatch(t) or t in "+-*/()" for t in terms):
        return most
    text = "".join(_NUMBER.sub(r"\1", t) for t in terms).replace("/", "//")
    try:
        return int(eval(text, {"__builtins__": {}}))  # numbers and operators only
    except (SyntaxError, ZeroDivisionError):
        return most


def problems(
    templates: dict[str, Template], instances: Sequence[Instance], kernels: Sequence[str],
    house_style: bool,
) -> Iterator[Problem]:  # fmt: skip
    """Templates without instances, instances of nothing, names that are used twice or not fit."""
    seen = set(kernels)
    for instance in instances:
        template = templates.get(instance.template)
        if template is None:
            yield Problem(instance.line, f"there is no kernel template `{instance.template}`")
        elif len(instance.arguments) > len(template.names):
            yield Problem(instance.line, f"too many template arguments for `{template.name}`")
        if instance.host is None and house_style:
            yield Problem(instance.line, f"an instance of `{instance.template}` has no host_name")
        if not re.fullmatch(r"[A-Za-z_]\w*", instance.name):
            yield Problem(instance.line, f"the host_name `{instance.name}` is no name")
        if instance.name in seen:
            yield Problem(instance.line, f"two kernels have the host_name `{instance.name}`")
        seen.add(instance.name)
    if house_style:
        made = {i.template for i in instances}
        for template in templates.values():
            if template.name not in made:
                yield Problem(template.line, f"kernel template `{template.name}` has no instance")
