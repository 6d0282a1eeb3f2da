"""Facts from the host program's assertions: equal sizes, ranks, dtypes, divisibility."""

from __future__ import annotations

from typing import Any

import libcst as cst

from transpile.frontend.facts import Facts
from transpile.frontend.helion.statements import DeviceStatements
from transpile.frontend.symbolic import HostShape
from transpile.frontend.values import (
    Env,
    HostTensor,
    NeedFact,
)
from transpile.ir.dtypes import DType
from transpile.ir.sizes import Size


class Learning(DeviceStatements):
    """Reads assertions; raises NeedFact or Unify to start over with what they state."""

    facts: Facts
    env: Env
    conditional: int

    def learn(self, test: cst.BaseExpression) -> None:
        """Facts an assertion states: equal dimensions, divisibility."""
        if isinstance(test, cst.BooleanOperation) and isinstance(test.operator, cst.And):
            self.learn(test.left)
            self.learn(test.right)
            return
        if not isinstance(test, cst.Comparison) or self.conditional:
            return
        left = test.left
        for part in test.comparisons:
            if isinstance(part.operator, (cst.Equal, cst.In)):
                self._learn_dtype(left, self.eval(part.comparator, self.env))
            if isinstance(part.operator, cst.Equal):
                self._learn_ndim(left, part.comparator)
                self._learn_modulo(left, part.comparator)
                self._learn_equal(self.eval(left, self.env), self.eval(part.comparator, self.env))
            left = part.comparator

    def _learn_equal(self, a: Any, b: Any) -> None:
        if isinstance(a, HostShape) and isinstance(b, HostShape):
            for one, other in ((a, b), (b, a)):
                if one.tensor.shape is None and other.tensor.shape is not None:
                    raise NeedFact(one.tensor.param or "?", rank=len(other))
        self._learn_rank(a, b)
        self._learn_rank(b, a)
        if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)) and len(a) == len(b):
            for x, y in zip(a, b, strict=True):
                self._learn_equal(x, y)
        elif isinstance(a, (int, Size)) and isinstance(b, (int, Size)) and a != b:
            self.facts.unify(Size.of(a), Size.of(b))

    def _learn_rank(self, shape: Any, entries: Any) -> None:
        """``assert x.shape == (a, b)`` tells the rank of ``x``."""
        if not isinstance(shape, HostShape) or type(entries) not in (tuple, list):
            return
        if shape.tensor.shape is None or shape.tensor.guessed:
            shape.unpacked(len(entries))

    def _learn_ndim(self, left: cst.BaseExpression, right: cst.BaseExpression) -> None:
        """``assert x.ndim == 2`` or ``x.dim() == 2``."""
        if isinstance(left, cst.Call):
            left = left.func
        if not isinstance(left, cst.Attribute) or left.attr.value not in ("ndim", "dim"):
            return
        owner, rank = self.eval(left.value, self.env), self.eval(right, self.env)
        if not isinstance(owner, HostTensor) or owner.param is None or not isinstance(rank, int):
            return
        if owner.shape is None or owner.guessed:
            raise NeedFact(owner.param, rank=rank)

    def _learn_dtype(self, left: cst.BaseExpression, wanted: Any) -> None:
        """``assert x.dtype == torch.float16``, or ``in`` a list: the dtype of an unstated ``x``."""
        if not (isinstance(left, cst.Attribute) and left.attr.value == "dtype"):
            return
        owner = self.eval(left.value, self.env)
        choices = wanted if isinstance(wanted, (tuple, list)) else [wanted]
        if not isinstance(owner, HostTensor) or owner.param not in self.facts.assumed:
            return
        known = [c for c in choices if isinstance(c, DType)]
        if known and owner.dtype not in known and owner.param not in self.facts.dtypes:
            raise NeedFact(owner.param, dtype=known[0])

    def _learn_modulo(self, left: cst.BaseExpression, right: cst.BaseExpression) -> None:
        """``assert n % 16 == 0``."""
        if not (isinstance(left, cst.BinaryOperation) and isinstance(left.operator, cst.Modulo)):
            return
        value = self.eval(left.left, self.env)
        divisor = self.eval(left.right, self.env)
        if self.eval(right, self.env) == 0 and isinstance(value, Size) and isinstance(divisor, int):
            sym = value.as_sym()
            if sym is not None and divisor > 0:
                self.facts.multiple_of[sym] = divisor
