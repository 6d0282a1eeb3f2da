"""Which integers are never negative: those may be divided as C++ divides."""

from __future__ import annotations

from collections import defaultdict

from transpile.thread import ir

#: operations whose result is not negative where no operand is
_KEEPING = frozenset(
    {"add", "mul", "floordiv", "maximum", "minimum", "fmax", "fmin", "and", "or", "shl", "shr"}
)


class Signs:
    """Facts about the variables of one kernel."""

    def __init__(self, body: ir.Body) -> None:
        self.values: dict[ir.Var, list[ir.Expr]] = defaultdict(list)
        self.known: dict[ir.Var, bool] = {}
        self._collect(body)

    def non_negative(self, expr: ir.Expr) -> bool:
        """True if the integer cannot be negative."""
        match expr:
            case ir.Const(value=value):
                return value >= 0
            case ir.Extent(size=size):
                return size.non_negative
            case ir.Id():
                return True
            case ir.Var() | ir.Element():
                var = expr if isinstance(expr, ir.Var) else expr.array
                return self._variable(var)
            case ir.Apply(name="mod", args=(_, by)):
                return self.non_negative(by)
            case ir.Apply(name="where", args=(_, a, b)):
                return self.non_negative(a) and self.non_negative(b)
            case ir.Apply(name=name, args=args, dtype=dtype) if dtype.is_int:
                return name in _KEEPING and all(self.non_negative(a) for a in args)
            case ir.Convert(value=value, dtype=dtype, bitcast=False):
                whole = value.dtype.is_bool or (value.dtype.is_int and dtype.bits >= 32)
                return dtype.is_int and whole and self.non_negative(value)
        return not expr.dtype.signed

    def _variable(self, var: ir.Var) -> bool:
        if var not in self.known:
            # Assumed while it is asked for: what a loop makes of it is then not negative either.
            self.known[var] = True
            values = self.values[var]
            found = bool(values) and all(self.non_negative(v) for v in values)
            self.known[var] = found or (var.dtype.is_int and not var.dtype.signed)
        return self.known[var]

    def _collect(self, body: ir.Body) -> None:
        for stmt in body:
            match stmt:
                case ir.Let(var=var, value=value) if value is not None:
                    self.values[var].append(value)
                case ir.Assign(target=target, value=value):
                    self.values[_root(target)].append(value)
                case ir.Atomic(result=result) if result is not None:
                    self.known[_root(result)] = False
                case ir.Inline(results=results):
                    self.known |= {_root(r): False for r in results}
                case ir.LaneLoop(var=var, body=inner):
                    self.known[var] = True
                    self._collect(inner)
                case ir.For(var=var, begin=begin, body=inner):
                    self.values[var].append(begin)
                    self._collect(inner)
                case ir.If(then=then, orelse=orelse):
                    self._collect(then)
                    self._collect(orelse)
                case ir.While(before=before, body=inner):
                    self._collect(before)
                    self._collect(inner)


def _root(target: ir.Var | ir.Element) -> ir.Var:
    return target if isinstance(target, ir.Var) else target.array
