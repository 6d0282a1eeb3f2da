"""Several signatures of one kernel: what tells them apart, as host Python."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from transpile.ir import ir
from transpile.ir.dtypes import BY_NAME, DType

_TENSOR = re.compile(r"(\w+)\[([^\]]*)\](?:\{([^}]*)\})?$")

Key = tuple[str, str]  # a parameter and a kind of fact about it


@dataclass(frozen=True, slots=True)
class Feature:
    """One fact about a parameter that a signature fixes: its kind, and the test for it."""

    param: str
    kind: str
    test: str
    compile_time: bool = False  # a value that is baked in: the launcher cannot check it

    @property
    def key(self) -> Key:
        return self.param, self.kind


def features(kernel: ir.Kernel) -> list[Feature]:
    """What the kernel's signature says of its parameters, cheapest test first."""
    specs = dict(_specs(kernel.signature))
    found: list[Feature] = []
    for param in kernel.params:
        if param.kind == "constexpr":
            if (test := _value_test(param.name, param.value)) is not None:
                found.append(Feature(param.name, "value", test, compile_time=True))
        elif param.kind == "function" and param.default is not None:
            index = [p.name for p in kernel.params if p.default is not None].index(param.name)
            test = f"{param.name} is {kernel.name}.__defaults__[{index}]"
            found.append(Feature(param.name, "value", test, compile_time=True))
        elif param.name in specs:
            found += _tensor_features(param.name, specs[param.name])
    return found


def _value_test(name: str, value: object) -> str | None:
    if value is None:
        return f"{name} is None"
    if isinstance(value, bool):
        return name if value else f"not {name}"
    if isinstance(value, DType):
        return f"{name} == torch.{value.torch}"
    if isinstance(value, int | float | str):
        return f"{name} == {value!r}"
    if isinstance(value, tuple | list) and all(isinstance(v, int | float | str) for v in value):
        return f"tuple({name}) == {tuple(value)!r}"
    return None


def _tensor_features(name: str, spec: str) -> list[Feature]:
    match = _TENSOR.match(spec)
    if match is None or match[1] not in BY_NAME:
        return []
    dims = [d.strip() for d in match[2].split(",") if d.strip()]
    order = [int(d) for d in match[3].split(",")] if match[3] else []
    minor = order[0] if order else len(dims) - 1
    found = [
        Feature(name, "value", f"{name} is not None"),
        Feature(name, "dtype", f"{name}.dtype == torch.{BY_NAME[match[1]].torch}"),
        Feature(name, "rank", f"{name}.dim() == {len(dims)}"),
    ]
    if len(dims) > 1:
        found.append(Feature(name, "layout", f"{name}.stride({minor}) == 1"))
    return found + [
        Feature(name, f"size {i}", f"{name}.size({i}) == {dim}")
        for i, dim in enumerate(dims)
        if dim.isdigit()
    ]


def _specs(signature: str) -> list[tuple[str, str]]:
    """``name=spec`` pairs; commas inside brackets and quotes do not separate."""
    parts = re.findall(
        r"(\w+)=((?:\[[^\]]*\]|\{[^}]*\}|'[^']*'|\"[^\"]*\"|\([^)]*\)|[^,\[\]{}])*)", signature
    )
    return [(name, spec.strip()) for name, spec in parts]


def tensor_dims(signature: str) -> list[tuple[str, list[str]]]:
    """The tensors of a printed signature and their dimensions as written."""
    matches = [(name, _TENSOR.match(spec)) for name, spec in _specs(signature)]
    return [(name, [d.strip() for d in m[2].split(",")]) for name, m in matches if m is not None]


def conditions(
    kernels: Sequence[ir.Kernel], unknown: frozenset[str] = frozenset()
) -> tuple[list[str], list[list[str]]]:
    """What every call must satisfy, and for each signature the tests that tell it from the others.

    Baked-in values are always tested; of the rest as little as will do, since the launcher checks
    the tensors. ``unknown`` are kinds of facts that the target's tensors cannot tell ("layout").
    """
    facts = [{f.key: f.test for f in features(k) if f.kind not in unknown} for k in kernels]
    baked = [{f.key for f in features(k) if f.compile_time} for k in kernels]
    optional = {p.name for k in kernels for p in k.params if p.kind == "constexpr" and not p.value}
    chosen = _distinguishing(facts, optional)
    tests = [
        [facts[i][k] for k in _needed(i, facts, [*sorted(baked[i]), *chosen], baked[i])]
        for i in range(len(kernels))
    ]
    common = [t for t in tests[0] if all(t in other for other in tests)]
    return common, [[t for t in own if t not in common] for own in tests]


def negated(tests: Sequence[str]) -> str:
    """The opposite of all tests holding."""
    if len(tests) > 1:
        return f"not ({' and '.join(tests)})"
    (test,) = tests
    for symbol, opposite in ((" is not ", " is "), (" is ", " is not "), (" == ", " != ")):
        if symbol in test:
            return test.replace(symbol, opposite, 1)
    return test.removeprefix("not ") if test.startswith("not ") else f"not {test}"


def _distinguishing(facts: list[dict[Key, str]], optional: set[str]) -> list[Key]:
    """Keys that together tell all signatures apart that can be told apart.

    Of ``optional`` parameters, which may be None, nothing but that is asked if possible.
    """

    def cost(key: Key) -> tuple[bool, int, Key]:
        return key[0] in optional and key[1] != "value", _RANK.get(key[1], 4), key

    keys = sorted({k for table in facts for k in table}, key=cost)
    pairs = {(i, j) for j in range(len(facts)) for i in range(j)}
    chosen: list[Key] = []
    while pairs:
        told = {k: {p for p in pairs if _differ(facts[p[0]], facts[p[1]], k)} for k in keys}
        best = max(keys, key=lambda k: len(told[k]), default=None)
        if best is None or not told[best]:
            break
        chosen.append(best)
        pairs -= told[best]
    return chosen


_RANK = {"value": 0, "dtype": 1, "rank": 2, "layout": 3}


def _differ(a: dict[Key, str], b: dict[Key, str], key: Key) -> bool:
    """True if both signatures test the key, differently."""
    return key in a and key in b and a[key] != b[key]


def _needed(mine: int, facts: list[dict[Key, str]], keys: list[Key], baked: set[Key]) -> list[Key]:
    """The baked-in values, and as few of the other tests as tell this signature from the others."""
    own, others = facts[mine], [f for i, f in enumerate(facts) if i != mine]
    needed = [k for k in dict.fromkeys(keys) if k in baked]
    for key in keys:
        left = [o for o in others if not any(_differ(own, o, k) for k in needed)]
        if key in needed or not any(_differ(own, o, key) for o in left):
            continue
        present = (key[0], "value")
        asks = own.get(present, "").endswith("not None") and present not in needed
        if asks and any(_differ(own, o, present) for o in others):
            needed.append(present)
        needed.append(key)
    return needed
