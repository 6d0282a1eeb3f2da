"""One host function for all signatures of a kernel.

Where the host programs agree but for what they launch, the launch is chosen inside the function.
Else each code has a function of its own, without branches that its compile-time values rule out,
and the function with the source's name picks one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from transpile.emitters.common.dispatch import Feature, Key, conditions, features, negated
from transpile.emitters.common.hostfunctions import mentions
from transpile.emitters.common.layout import wrap
from transpile.emitters.pallas.hostjax import (
    Launch,
    LaunchPlan,
    Variant,
    as_arrays,
    decorator,
    host_body,
    host_function,
    host_head,
    program_of,
)
from transpile.emitters.pallas.hostjax_scan import bound
from transpile.emitters.pallas.hostjax_text import Translator
from transpile.ir import ir

_WORD = re.compile(r"[A-Za-z_]\w*")


def host_functions(group: Sequence[Variant]) -> str:
    """The function with the source's name, and those it calls where the signatures' programs
    differ. Raises KtError for what JAX cannot do."""
    checks = "\n".join(decorator(group))
    texts = [host_function(v) for v in group]
    if len(set(texts)) == 1:
        return f"{checks}\n{texts[0]}"
    if (chosen := _choosing(group)) is not None:
        return f"{checks}\n{chosen}"
    *functions, front = _dispatched(group)
    return "\n\n\n".join([*functions, f"{checks}\n{front}"])


# -- which signature is called ---------------------------------------------------------------------


class Tests:
    """What tells groups of signatures apart, in JAX."""

    def __init__(self, group: Sequence[Variant]) -> None:
        self.kernels = [replace(v.kernel, signature=as_arrays(v.kernel.signature)) for v in group]
        self.facts = [_facts(k) for k in self.kernels]
        self.translator: Translator = program_of(group[0]).translator

    def of(self, members: Sequence[int]) -> str:
        """A condition that holds for these signatures and for none of the others; "" where theirs
        is the general case, to be asked last."""
        others = [f for i, f in enumerate(self.facts) if i not in members]
        own = [self.facts[i] for i in members]
        for key in sorted(own[0], key=_cost):
            tests = {f[key].test if key in f else "" for f in own}
            if "" in tests or any(f[key].test in tests for f in others if key in f):
                continue
            known = [f[key].test for f in others if key in f]
            if len(tests) == 1 and (len(known) == len(others) or key[1].startswith("size")):
                return self.translator.expression(tests.pop())
            if len(known) == len(others) and len(set(known)) == 1:
                return self.translator.expression(negated(known[:1]))
        _, found = conditions(self.kernels, unknown=frozenset({"layout"}))
        if not all(found[i] for i in members):
            return ""
        every = [self.translator.expression(" and ".join(found[i])) for i in members]
        return " or ".join(every)


def _facts(kernel: ir.Kernel) -> dict[Key, Feature]:
    return {f.key: f for f in features(kernel) if f.kind != "layout" and " is kernel" not in f.test}


def _cost(key: Key) -> tuple[int, Key]:
    return {"value": 0, "dtype": 1, "rank": 2}.get(key[1], 3), key


def _branches(texts: Sequence[list[str]], tests: Tests, indent: int) -> list[str]:
    """``if x.dtype == jnp.float16: ...``; what most signatures have is the rest."""
    pad = " " * indent
    groups: dict[tuple[str, ...], list[int]] = {}
    for i, code in enumerate(texts):
        groups.setdefault(tuple(code), []).append(i)
    asked = [(tests.of(members), code) for code, members in groups.items()]
    sizes = {code: len(members) for code, members in groups.items()}
    *first, (_, rest) = sorted(asked, key=lambda item: (not item[0], sizes[item[1]]))
    found: list[str] = []
    for test, lines in first:
        keyword = "elif" if found else "if"
        found += [*wrap(f"{keyword} {test}:", indent), *_deeper(lines)]
    return [*found, f"{pad}else:", *_deeper(rest)]


def _deeper(lines: Sequence[str]) -> list[str]:
    return [f"    {line}" for line in lines]


# -- one function ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Blank:
    """Stands for a launch; it reads whatever one of the signatures' launches reads."""

    phase: int
    launch: Launch
    words: tuple[str, ...]

    @property
    def overwritten(self) -> frozenset[ir.Tensor]:
        return self.launch.overwritten

    def lines(self, plan: LaunchPlan, indent: int) -> list[str]:
        return [f"{' ' * indent}launch_{self.phase}({', '.join(self.words)})"]


@dataclass(frozen=True)
class _Chosen:
    """The launch of whichever signature is called."""

    phase: int
    group: Sequence[Variant]
    tests: Tests

    @property
    def overwritten(self) -> frozenset[ir.Tensor]:
        return self.group[0].launches[self.phase].overwritten

    def lines(self, plan: LaunchPlan, indent: int) -> list[str]:
        texts = [_launch_lines(v, self.phase, indent) for v in self.group]
        if len({tuple(t) for t in texts}) == 1:
            return texts[0]
        return _branches(texts, self.tests, indent)


def _launch_lines(variant: Variant, phase: int, indent: int) -> list[str]:
    plan = LaunchPlan(program_of(variant), variant.schedule, phase)
    return variant.launches[phase].lines(plan, indent)


def _choosing(group: Sequence[Variant]) -> str | None:
    """One function whose launches are chosen, if the signatures' programs agree in the rest."""
    phases = range(len(group[0].launches))
    if any(len(v.launches) != len(phases) for v in group):
        return None
    words: dict[int, set[str]] = {}
    for phase in phases:
        lines = [_launch_lines(v, phase, 4) for v in group]
        if len({text[0].partition(" = ")[0] for text in lines}) > 1:
            return None
        words[phase] = set(_WORD.findall(" ".join(line for text in lines for line in text)))
    blanks = []
    for variant in group:
        launches = [_Blank(i, variant.launches[i], tuple(sorted(words[i]))) for i in phases]
        blanks.append(host_function(replace(variant, launches=launches)))
    if len(set(blanks)) > 1:
        return None
    tests = Tests(group)
    text = host_function(replace(group[0], launches=[_Chosen(i, group, tests) for i in phases]))
    asked = [line for line in text.split("\n") if line.lstrip().startswith(("if ", "elif "))]
    if _rebinds(group[0], asked):
        return None
    return text


def _rebinds(variant: Variant, asked: Sequence[str]) -> bool:
    """True if the host program gives a parameter that is asked about another value."""
    names = {p.name for p in variant.kernel.params if mentions(p.name, asked)}
    return any(names & bound(s.text) for s in program_of(variant).statements if s.text)


# -- several functions -----------------------------------------------------------------------------


def _dispatched(group: Sequence[Variant]) -> list[str]:
    """A function for each code, and the one with the source's name behind them."""
    first = group[0].kernel
    bodies = ["\n".join(host_body(v, folded=True)) for v in group]
    codes = list(dict.fromkeys(bodies))
    alike = [[v.kernel for v, b in zip(group, bodies, strict=True) if b == code] for code in codes]
    names = dict(zip(codes, (f"_{first.name}{s}" for s in suffixes(alike)), strict=True))
    read = {c: ", ".join(p.name for p in first.params if mentions(p.name, [c])) for c in codes}
    functions = ["\n".join([*wrap(f"def {names[c]}({read[c]}):", 0), c]) for c in codes]
    calls = [wrap(f"return {names[b]}({read[b]})", 4) for b in bodies]
    return [*functions, "\n".join([*host_head(group[0]), *_returns(calls, Tests(group))])]


def _returns(calls: Sequence[list[str]], tests: Tests) -> list[str]:
    """Branches that return need no ``else``."""
    lines = _branches(calls, tests, 4)
    at = max(i for i, line in enumerate(lines) if line == "    else:")
    head = [line.replace("    elif ", "    if ") for line in lines[:at]]
    return [*head, *(line[4:] for line in lines[at + 1 :])]


def suffixes(groups: Sequence[Sequence[ir.Kernel]]) -> list[str]:
    """What the names of a group's functions end with: the compile-time value, rank or element type
    that its signatures have and the others have not; a number where nothing short is theirs."""
    facts = [[{f.key: f for f in features(k)} for k in group] for group in groups]
    found = []
    for i, (group, own) in enumerate(zip(groups, facts, strict=True)):
        others = [f for j, table in enumerate(facts) if j != i for f in table]
        labels = [
            label
            for key in sorted(own[0], key=_label_cost)
            if all(key in f and f[key].test == own[0][key].test for f in own)
            and all(key not in f or f[key].test != own[0][key].test for f in others)
            if (label := _label(group[0], own[0][key], others))
        ]
        found.append(f"_{labels[0]}" if labels else "")
    if len(groups) == 1:
        return [""]
    return [t if t and found.count(t) == 1 else f"_{i + 1}" for i, t in enumerate(found)]


def _label_cost(key: Key) -> tuple[int, Key]:
    return {"value": 0, "rank": 1, "dtype": 2}.get(key[1], 3), key


def _label(kernel: ir.Kernel, feature: Feature, others: Sequence[Mapping[Key, Feature]]) -> str:
    """A word for a fact about a parameter."""
    test, param = feature.test, feature.param
    plain = param.removeprefix("with_")
    match feature.kind:
        case "value" if test.endswith(" is None"):
            return f"no_{plain}"
        case "value" if test.endswith(" is not None"):
            absent = any(f.get(feature.key) and f[feature.key].test != test for f in others)
            return f"with_{plain}" if absent else ""
        case "value" if test == param:
            return f"with_{plain}" if plain != param else param
        case "value" if test == f"not {param}":
            return f"no_{plain}" if plain != param else f"not_{param}"
        case "value":
            word = re.sub(r"\W+", "_", test.rpartition("== ")[2].removeprefix("torch.")).strip("_")
            return f"{param}_{word}" if word.isdigit() else word
        case "rank":
            return f"{test.rpartition(' ')[2]}d"
        case "dtype":
            return next(t.dtype.name for t in kernel.tensors if t.param == param) if any(
                t.param == param for t in kernel.tensors
            ) else ""  # fmt: skip
        case _:
            return ""
