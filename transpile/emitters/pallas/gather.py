"""Accesses whose index tiles no rewrite has taken away."""

from __future__ import annotations

from transpile.emitters.common.tree import Expr
from transpile.emitters.pallas.context import Context
from transpile.ir import ir


def lower_gathered(ctx: Context, op: ir.Load) -> Expr:
    """Elements picked one by one: the vector unit has no gather from memory."""
    raise ctx.unsupported(
        f"this gather from `{op.tensor.name}`", op.span,
        "the vector unit loads rows and blocks, not single elements",
        "index whole rows, or gather outside the kernel with jnp.take",
    )  # fmt: skip


def scatter(ctx: Context, op: ir.Store | ir.Atomic, value: Expr) -> None:
    """Elements written one by one."""
    del value
    raise ctx.unsupported(
        f"this scatter to `{op.tensor.name}`", op.span,
        "the vector unit stores rows and blocks, not single elements",
        "scatter outside the kernel with `.at[].add`",
    )  # fmt: skip
