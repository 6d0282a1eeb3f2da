"""Several signatures of one kernel: what tells them apart, as host Python."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass

from transpile.ir.dtypes import BY_NAME

_TENSOR = re.compile(r"(\w+)\[([^\]]*)\](?:\{([^}]*)\})?$")


@dataclass(frozen=True, slots=True)
class Feature:
    """One fact about a parameter that a signature fixes: its kind, and the test for it."""

    param: str
    kind: str
    test: str
    compile_time: bool = False  # a value of Python, which the launcher cannot check


def features(signature: str) -> list[Feature]:
    """Facts of a printed signature such as ``x=f16[M,K], bias=None``, cheapest test first."""
    found: list[Feature] = []
    for name, spec in _params(signature):
        match = _TENSOR.match(spec)
        if match is None or match[1] not in BY_NAME:
            if spec not in BY_NAME and _is_literal(spec):
                found.append(Feature(name, "value", _value_test(name, spec), compile_time=True))
            continue
        dims = [d.strip() for d in match[2].split(",") if d.strip()]
        found.append(Feature(name, "value", f"{name} is not None"))
        found.append(Feature(name, "dtype", f"{name}.dtype == torch.{BY_NAME[match[1]].torch}"))
        found.append(Feature(name, "rank", f"{name}.dim() == {len(dims)}"))
        order = [int(d) for d in match[3].split(",")] if match[3] else []
        minor = order[0] if order else len(dims) - 1
        if len(dims) > 1:
            found.append(Feature(name, "layout", f"{name}.stride({minor}) == 1"))
        for i, dim in enumerate(dims):
            if dim.isdigit():
                found.append(Feature(name, f"size {i}", f"{name}.size({i}) == {dim}"))
    return found


def tensor_dims(signature: str) -> list[tuple[str, list[str]]]:
    """The tensors of a printed signature and their dimensions as written."""
    matches = [(name, _TENSOR.match(spec)) for name, spec in _params(signature)]
    return [(name, [d.strip() for d in m[2].split(",")]) for name, m in matches if m is not None]


def _is_literal(text: str) -> bool:
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return False
    return True


def fixed_values(signature: str) -> str:
    """The test that compile-time values are those of the signature, "" if it has none."""
    tests = [f.test for f in features(signature) if f.kind == "value" and f.compile_time]
    return " and ".join(tests)


def _value_test(name: str, value: str) -> str:
    if value == "None":
        return f"{name} is None"
    if value in ("True", "False"):
        return name if value == "True" else f"not {name}"
    return f"{name} == {value}"


def _params(signature: str) -> list[tuple[str, str]]:
    """``name=spec`` pairs; commas inside brackets and quotes do not separate."""
    parts = re.findall(
        r"(\w+)=((?:\[[^\]]*\]|\{[^}]*\}|'[^']*'|\"[^\"]*\"|\([^)]*\)|[^,\[\]{}])*)", signature
    )
    return [(name, spec.strip()) for name, spec in parts]


def conditions(signatures: Sequence[str]) -> list[str]:
    """For each signature the test that tells it from the others, as short as can be."""
    facts = [{(f.param, f.kind): f.test for f in features(s)} for s in signatures]
    keys = _ranked({key: None for table in facts for key in table})
    chosen: list[tuple[str, str]] = []

    def split(columns: list[tuple[str, str]]) -> int:
        return len({tuple(table.get(c, "") for c in columns) for table in facts})

    while (now := split(chosen)) < split(list(keys)):
        best = max(keys, key=lambda k: split([*chosen, k]))
        if split([*chosen, best]) == now:
            chosen += [k for k in keys if k not in chosen]  # only together they tell
            break
        chosen.append(best)
    tests = [_shortest(i, facts, chosen) for i in range(len(facts))]
    values = [fixed_values(s) for s in signatures]
    return [_both(v, t) for v, t in zip(values, tests, strict=True)]


def _both(values: str, tests: str) -> str:
    parts = [*values.split(" and "), *tests.split(" and ")]
    return " and ".join(dict.fromkeys(p for p in parts if p and p != "True")) or "True"


def _shortest(
    mine: int, facts: list[dict[tuple[str, str], str]], chosen: list[tuple[str, str]]
) -> str:
    """As few of the chosen tests as tell this signature from every other."""
    own, others = facts[mine], [f for i, f in enumerate(facts) if i != mine]
    needed: list[tuple[str, str]] = []
    for key in chosen:
        if key in own and any(_alike(own, o, needed) and o.get(key) != own[key] for o in others):
            needed.append(key)
    return _conjunction(own, needed)


def _alike(
    a: dict[tuple[str, str], str], b: dict[tuple[str, str], str], keys: list[tuple[str, str]]
) -> bool:
    return all(a.get(k) == b.get(k) for k in keys)


def _ranked(keys: dict[tuple[str, str], None]) -> list[tuple[str, str]]:
    order = {"value": 0, "dtype": 1, "rank": 2, "layout": 3}
    return sorted(keys, key=lambda k: order.get(k[1], 4))


def _conjunction(table: dict[tuple[str, str], str], chosen: list[tuple[str, str]]) -> str:
    tests = [table[key] for key in chosen if key in table]
    return " and ".join(tests) or "True"
