"""From an evaluated program to the finished ir.Kernel: host items, names, comments."""

from __future__ import annotations

import libcst as cst

from transpile.frontend.helion import prelude
from transpile.frontend.helion.hosttext import HostText
from transpile.frontend.helion.kernels import KernelSite
from transpile.frontend.helion.learning import Learning
from transpile.frontend.helion.scan import assigned_names, body_of
from transpile.frontend.syntax import children, names_read
from transpile.frontend.values import (
    Env,
)
from transpile.ir import ir
from transpile.ir.dtypes import I64
from transpile.ir.sizes import Size

LAUNCH_MARK = "__kt_launch__"


class Assembly(Learning):
    """The parts of a program that become the kernel."""

    site: KernelSite
    text: HostText
    phases: list[ir.Phase]
    scalars: dict[str, ir.Scalar]
    comments: dict[int, str]
    size_names: dict[tuple[Size, str], None]

    def statements_of_host(self) -> list[cst.CSTNode]:
        body = list(body_of(self.site.node))
        if body and _is_docstring(body[0]):
            body = body[1:]
        return body

    def kernel(self, signature: str, params: tuple[ir.Param, ...]) -> ir.Kernel:
        """The finished kernel."""
        node = self.site.node
        host = self._host_items()
        text = prelude.collect(self.source, self.site, host)
        returns = None
        if node.returns is not None:
            returns = self.source.code(node.returns.annotation)
        return ir.Kernel(
            name=self.site.name,
            params=params,
            signature=signature,
            returns=returns,
            docstring=_docstring(node),
            host=host,
            phases=tuple(self.phases),
            tensors=tuple(self.tensors.values()),
            scalars=tuple(self.scalars.values()),
            blocks=self.blocks.all,
            size_names=tuple(self.size_names),
            multiple_of=dict(self.facts.multiple_of),
            config={
                k: v
                for k, v in self.config.items()
                if k != "index_dtype" and k not in self.tunables
            },
            index_dtype=I64 if self.b.index_dtype == I64 else None,
            prelude=text,
            span=self.source.span(node.name),
            comments=dict(self.comments),
        )

    def _host_items(self) -> tuple[ir.HostCode | ir.Launch, ...]:
        items: list[ir.HostCode | ir.Launch] = []
        span = self.source.span(self.site.node.body)
        last = span.line - 1 if span is not None else 0
        for statement in self.statements_of_host():
            where = self.source.span(statement)
            assert where is not None
            text = self.text.text(statement, last)
            last = where.end_line
            if text:
                items.extend(self._split(text, statement, where))
        return tuple(items)

    def _split(
        self, text: str, statement: cst.CSTNode, where: ir.Span
    ) -> list[ir.HostCode | ir.Launch]:
        """Launch marks become Launch items; the text around them stays."""
        items: list[ir.HostCode | ir.Launch] = []
        if LAUNCH_MARK not in text:
            defines = tuple(assigned_names([statement]))
            pure = _is_pure(statement)
            return [ir.HostCode(text, where, defines, tuple(sorted(names_read([statement]))), pure)]
        lines: list[str] = []
        for line in text.splitlines():
            stripped = line.strip()
            if stripped.startswith(LAUNCH_MARK):
                if any(not one.strip().startswith("#") and one.strip() for one in lines):
                    items.append(ir.HostCode("\n".join(lines), where))
                lines = []
                phase = int(stripped[len(LAUNCH_MARK) + 1 : stripped.index(")")])
                items.append(ir.Launch(phase, (len(line) - len(line.lstrip())) // 4))
            else:
                lines.append(line)
        if lines:
            items.append(ir.HostCode("\n".join(lines), where))
        return items

    def statement(self, node: cst.CSTNode, env: Env) -> None:
        if self.on_device:
            self._note_comment(node)
        super().statement(node, env)

    def _note_comment(self, node: cst.CSTNode) -> None:
        lines = getattr(node, "leading_lines", None)
        span = self.source.span(node)
        if not lines or span is None:
            return
        texts = [line.comment.value for line in lines if line.comment is not None]
        useful = [
            t for t in texts if not t.startswith(("# type:", "# pyrefly", "# noqa", "# pyright"))
        ]
        if useful:
            self.comments[span.line] = "\n".join(useful)


def _is_docstring(node: cst.CSTNode) -> bool:
    return (
        isinstance(node, cst.SimpleStatementLine)
        and isinstance(node.body[0], cst.Expr)
        and isinstance(node.body[0].value, (cst.SimpleString, cst.ConcatenatedString))
    )


def _docstring(node: cst.FunctionDef) -> str | None:
    return node.get_docstring(clean=True)


def _is_pure(node: cst.CSTNode) -> bool:
    """Assignments of sizes and arithmetic: droppable when nothing reads the name."""
    if not isinstance(node, cst.SimpleStatementLine) or not all(
        isinstance(s, cst.Assign) for s in node.body
    ):
        return False
    pure_calls = {
        "cdiv", "dim", "float", "int", "len", "max", "min", "next_power_of_2", "numel",
        "register_block_size", "register_tunable", "size", "specialize", "sqrt", "stride",
    }  # fmt: skip

    def visit(child: cst.CSTNode) -> bool:
        if isinstance(child, cst.Call):
            func = child.func
            name = (
                func.attr.value if isinstance(func, cst.Attribute) else getattr(func, "value", "")
            )
            if name not in pure_calls:
                return False
        if isinstance(child, (cst.Subscript, cst.Await, cst.Yield)) and isinstance(
            child, cst.Await
        ):
            return False
        return all(visit(c) for c in children(child))

    assigns = [s for s in node.body if isinstance(s, cst.Assign)]
    targets = [t.target for s in assigns for t in s.targets]
    simple = all(isinstance(t, (cst.Name, cst.Tuple)) for t in targets)
    return simple and all(visit(s.value) for s in assigns)
