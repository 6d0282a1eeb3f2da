"""Statements to lines: indentation, and breaking of what is longer than 100 columns."""

from __future__ import annotations

import re

from transpile.emitters.common.tree import (
    Assign,
    Comment,
    Copy,
    Eval,
    For,
    Function,
    If,
    Return,
    Stmt,
    While,
)

WIDTH = 100
SHORT = 28  # arguments up to this long share a line
_OPEN, _CLOSE = "([{", ")]}"


def render(body: list[Stmt], indent: int = 4) -> list[str]:
    """Source lines of a block."""
    while body and isinstance(body[-1], Comment):
        body = body[:-1]  # its statement has no code here
    lines: list[str] = []
    for stmt in body:
        new = _statement(stmt, indent)
        if new and not new[0] and (not lines or not lines[-1]):
            new = new[1:]  # one empty line between functions, none at the start of a block
        lines += new
    while lines and not lines[-1]:
        lines.pop()
    return lines or [" " * indent + "pass"]


def _statement(stmt: Stmt, indent: int) -> list[str]:
    match stmt:
        case Assign(targets=targets, value=value):
            names = ", ".join(t.name for t in targets)
            return assignment(names, value.text(), indent)
        case Eval(value=value):
            return wrap(value.text(), indent)
        case For(target=target, iterator=iterator, body=body):
            head = wrap(f"for {target.name} in {iterator.text()}:", indent)
            return head + render(body, indent + 4)
        case While(cond=cond, body=body):
            return wrap(f"while {cond.text()}:", indent) + render(body, indent + 4)
        case If(cond=cond, then=then, orelse=orelse):
            lines = wrap(f"if {cond.text()}:", indent) + render(then, indent + 4)
            if len(orelse) == 1 and isinstance(orelse[0], If):
                first, *rest = _statement(orelse[0], indent)
                return [*lines, " " * indent + "el" + first.lstrip(), *rest]
            if orelse:
                lines += [" " * indent + "else:", *render(orelse, indent + 4)]
            return lines
        case Function():
            return _function(stmt, indent)
        case Return(values=values):
            return wrap(f"return {', '.join(v.text() for v in values)}", indent)
        case Comment(text=text):
            return [f"{' ' * indent}# {text}"]
        case Copy():
            raise AssertionError("copies are resolved before printing")


def _function(stmt: Function, indent: int) -> list[str]:
    """A nested function, with an empty line before and after it as formatters want."""
    head = f"def {stmt.name.name}({', '.join(p.name for p in stmt.params)}):"
    above = wrap(f"@{stmt.decorator.text()}", indent) if stmt.decorator is not None else []
    return ["", *above, *wrap(head, indent), *render(stmt.body, indent + 4), ""]


def assignment(names: str, value: str, indent: int) -> list[str]:
    """``names = value``; ``x = x + y`` is printed ``x += y`` where the grammar allows."""
    for symbol in ("+", "-", "*", "/", "|", "&", ">>", "<<", "//"):
        head = f"{names} {symbol} "
        if value.startswith(head) and _augments(value[len(head) :], symbol):
            return wrap(f"{names} {symbol}= {_bare(value[len(head) :])}", indent)
    return wrap(f"{names} = {value}", indent)


def _bare(text: str) -> str:
    """The text without parentheses around all of it."""
    if not text.startswith("("):
        return text
    depth = 0
    for i, c in enumerate(text):
        depth += (c in _OPEN) - (c in _CLOSE)
        if depth == 0:
            return text[1:-1] if i == len(text) - 1 else text
    return text


#: operators, tightest first: in ``x op= rhs`` all of rhs must be tighter than op
_LEVELS = (("*", "/", "//", "%"), ("+", "-"), ("<<", ">>"), ("&",), ("^",), ("|",))


def _augments(rest: str, symbol: str) -> bool:
    """True if ``rest`` is one operand of the operator: nothing as loose follows at depth 0."""
    level = next(i for i, group in enumerate(_LEVELS) if symbol in group)
    tighter = {op for group in _LEVELS[:level] for op in group}
    return all(token in tighter for token in _top_level_operators(rest))


def _top_level_operators(text: str) -> list[str]:
    depth, out = 0, []
    for token in _blanked(text).split(" "):
        if depth == 0 and token and all(c in "+-*/%<>=!&|^" for c in token):
            out.append(token)
        depth += sum(c in _OPEN for c in token) - sum(c in _CLOSE for c in token)
    return out


def wrap(text: str, indent: int) -> list[str]:
    """One statement as lines of at most WIDTH columns."""
    pad = " " * indent
    if len(pad) + len(text) <= WIDTH:
        return [pad + text]
    name, equals, value = text.partition(" = ")
    split = _largest_bracket(text)
    if split is not None and max(len(split[0]), len(split[2])) + indent <= WIDTH:
        head, inner, tail = split
        if not (equals and len(tail) > SHORT and _top_level_operators(tail[1:])):
            return [pad + head, *_contents(head, inner, indent + 4), pad + tail]
    if not equals:
        return [pad + text]
    return [f"{pad}{name} = (", *expression(value, indent + 4), pad + ")"]


def filled(items: list[str], indent: int) -> list[str]:
    """Items with commas behind them, as many on a line as fit."""
    lines: list[str] = []
    for item in items:
        if lines and len(lines[-1]) + len(item) + 2 <= WIDTH:
            lines[-1] += f" {item},"
        else:
            lines.append(f"{' ' * indent}{item},")
    return lines


def _contents(head: str, inner: str, indent: int) -> list[str]:
    """What stands in a broken bracket: the arguments of a call, entries, or one expression."""
    items = _split_commas(inner)
    if len(items) == 1 and not _is_call(head):
        return expression(inner, indent)
    return _packed(items, indent)


def _packed(items: list[str], indent: int) -> list[str]:
    """Arguments of a broken call: the long ones on lines of their own, short ones together."""
    lines: list[str] = []
    line = ""
    for item in items:
        if line and len(item) <= SHORT and indent + len(line) + len(item) + 2 <= WIDTH:
            line += f" {item},"
            continue
        lines += [" " * indent + line] if line else []
        line = ""
        if len(item) <= SHORT:
            line = f"{item},"
        else:
            lines += expression(item, indent, ",")
    return lines + ([" " * indent + line] if line else [])


_OPERATORS = (
    (" | ",), (" ^ ",), (" & ",), (" < ", " <= ", " > ", " >= ", " == ", " != "), (" << ", " >> "),
    (" + ", " - "), (" * ", " / ", " // ", " % "),
)  # fmt: skip


def expression(text: str, indent: int, after: str = "") -> list[str]:
    """An expression inside brackets, broken before its loosest operators or in its brackets;
    ``after`` follows it."""
    pad = " " * indent
    if indent + len(text) + len(after) <= WIDTH:
        return [pad + text + after]
    for group in _OPERATORS:
        parts = _split_operators(text, group)
        if len(parts) > 1:
            ends = [""] * (len(parts) - 1) + [after]
            pairs = zip(parts, ends, strict=True)
            return [line for part, end in pairs for line in expression(part, indent, end)]
    split = _largest_bracket(text)
    if split is None:
        return [pad + text + after]
    head, inner, tail = split
    return [pad + head, *_contents(head, inner, indent + 4), pad + tail + after]


def _is_call(head: str) -> bool:
    return head.endswith("(") and len(head) > 1 and (head[-2].isalnum() or head[-2] in "_])")


def _largest_bracket(text: str) -> tuple[str, str, str] | None:
    """Split at the bracket pair to break: the longest at depth 0, if it is worth it."""
    pairs: list[tuple[int, int]] = []
    stack: list[int] = []
    for i, c in enumerate(_blanked(text)):
        if c in _OPEN:
            stack.append(i)
        elif c in _CLOSE and stack:
            start = stack.pop()
            if not stack:
                pairs.append((start, i))
    if not pairs:
        return None
    start, stop = max(pairs, key=lambda p: p[1] - p[0])
    if stop - start < 12:
        return None
    return text[: start + 1], text[start + 1 : stop], text[stop:]


def _split_commas(text: str) -> list[str]:
    return [part.strip() for part in _split_at(text, (",",), keep=False) if part.strip()]


def _split_operators(text: str, symbols: tuple[str, ...]) -> list[str]:
    return [p.strip() for p in _split_at(text, symbols, keep=True)]


def _split_at(text: str, symbols: tuple[str, ...], *, keep: bool) -> list[str]:
    parts: list[str] = []
    depth = start = i = 0
    code = _blanked(text)
    while i < len(text):
        c = code[i]
        depth += (c in _OPEN) - (c in _CLOSE)
        found = next((s for s in symbols if depth == 0 and code.startswith(s, i)), None)
        if found is not None and i > start:
            parts.append(text[start:i])
            start = i if keep else i + len(found)
            i += len(found)
            continue
        i += 1
    return [*parts, text[start:]]


_STRING = re.compile(r"'(?:\\.|[^'\\])*'" + r'|"(?:\\.|[^"\\])*"')


def _blanked(text: str) -> str:
    """The text with the contents of its string literals blanked, of the same length."""
    if "'" not in text and '"' not in text:
        return text
    return _STRING.sub(lambda m: f"'{'_' * (len(m[0]) - 2)}'", text)
