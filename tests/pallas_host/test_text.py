"""Statements of host programs, from torch to JAX."""

from __future__ import annotations

import pytest

from transpile.emitters.pallas.hostjax_text import Translator, one_line, torch_imports
from transpile.ir.diagnostics import KtError

PRELUDE = """\
import math
import torch
import torch.nn.functional as F
from torch import Tensor
"""

STATEMENTS = {
    # sizes
    "m, k = x.size()": "m, k = x.shape",
    "n = x.size(-1)": "n = x.shape[-1]",
    "n = x.numel() // x.dim()": "n = x.size // x.ndim",
    "s = x.stride(-1)": "s = 1",
    "s = x.stride(0)": "s = math.prod(x.shape[1:])",
    "scale = 1.0 / math.sqrt(x.size(1))": "scale = 1.0 / math.sqrt(x.shape[1])",
    # allocations
    "out = torch.empty_like(x)": "out = jnp.empty_like(x)",
    "out = torch.empty_like(x, dtype=torch.float)": "out = jnp.empty(x.shape, jnp.float32)",
    "out = torch.empty([m, n], dtype=x.dtype, device=x.device)": "out = jnp.empty((m, n), x.dtype)",
    "out = torch.zeros(m, dtype=torch.int64, device='cuda')": "out = jnp.zeros((m,), jnp.int32)",
    "out = torch.full((m, 2), 7.0)": "out = jnp.full((m, 2), 7.0, jnp.float32)",
    "out = torch.empty(x.shape[:-1])": "out = jnp.empty(x.shape[:-1], jnp.float32)",
    "out = x.new_zeros([*x.shape, 1])": "out = jnp.zeros((*x.shape, 1), x.dtype)",
    "out = x.new_empty(n, dtype=torch.bfloat16)": "out = jnp.empty((n,), jnp.bfloat16)",
    # views and layout
    "y = x.view(-1)": "y = x.reshape(-1)",
    "y = x.reshape([b * t, d])": "y = x.reshape(b * t, d)",
    "y = x.contiguous().permute(0, 2, 1)": "y = x.transpose(0, 2, 1)",
    "y = x.transpose(0, 1).t()": "y = jnp.swapaxes(x, 0, 1).T",
    "y = (x + 1).view(-1)": "y = (x + 1).reshape(-1)",
    "y = x.flatten(1, 2)": "y = x.reshape(*x.shape[:1], -1, *x.shape[3:])",
    "y = x.unsqueeze(-1).expand(m, n)": "y = jnp.broadcast_to(jnp.expand_dims(x, -1), (m, n))",
    "q, k = x.chunk(2, dim=-1)": "q, k = jnp.split(x, 2, axis=-1)",
    "x, y = torch.broadcast_tensors(x, y)": "x, y = jnp.broadcast_arrays(x, y)",
    # dtypes
    "y = x.to(torch.float16)": "y = x.astype(jnp.float16)",
    "y = x.to(dtype=w.dtype)": "y = x.astype(w.dtype)",
    "y = x.to(w)": "y = x.astype(w.dtype)",
    "y = x.to(w.device)": None,
    "dtype = torch.promote_types(x.dtype, y.dtype)": "dtype = jnp.promote_types(x.dtype, y.dtype)",
    "y = x.float().long()": "y = x.astype(jnp.float32).astype(jnp.int32)",
    "d = {1: torch.bool}": "d = {1: jnp.bool_}",
    # computations
    "return losses.sum(dim=-1, keepdim=True) / n": "return losses.sum(axis=-1, keepdims=True) / n",
    "z = torch.sum(x, dim=0)": "z = jnp.sum(x, axis=0)",
    "z = torch.cat([x, y], dim=1)": "z = jnp.concatenate([x, y], axis=1)",
    "z = F.gelu(x, approximate='tanh')": "z = jax.nn.gelu(x, approximate=True)",
    "z = F.softmax(x, dim=-1)": "z = jax.nn.softmax(x, axis=-1)",
    "z = x.clamp(min=0, max=1)": "z = jnp.clip(x, 0, 1)",
    "z = torch.where(x > 0, x, -torch.inf)": "z = jnp.where(x > 0, x, -jnp.inf)",
    # changes in place
    "out.zero_()": "out = jnp.zeros_like(out)",
    "out[:, -1] = 0": "out = out.at[:, -1].set(0)",
    "out[..., :3] += x[:, None]": "out = out.at[..., :3].add(x[:, None])",
    "out.copy_(x)": "out = x.astype(out.dtype)",
    # what is always true of a jax.Array, or no business of the program
    "assert x.is_contiguous()": "",
    "assert x.device == y.device, 'on one device'": "",
    "assert x.dtype is torch.float16 and x.is_cuda": "assert x.dtype == jnp.float16",
    # annotations
    "y: torch.Tensor = x": "y: jax.Array = x",
    "y: Tensor | None = None": "y: jax.Array | None = None",
}


@pytest.fixture
def translator() -> Translator:
    return Translator(torch_imports(PRELUDE), ["x", "y", "w", "out", "losses"])


@pytest.mark.parametrize("statement", [s for s, want in STATEMENTS.items() if want is not None])
def test_statement(translator: Translator, statement: str) -> None:
    assert translator.statement(statement) == STATEMENTS[statement]


@pytest.mark.parametrize(
    "statement",
    [
        "y = torch.fft.fft(x)",
        "n = int(x.sum().item())",
        "y = x.frobnicate(3)",
        "y = torch.empty(3, dtype=torch.float64)",
        "y = torch.randn(3)",
        "print(x.device)",
        "y = x.add_(1)",
        "y = x.to(w.device)",
        "out[0] //= 2",
        "v, i = x.max(dim=1)",
    ],
)
def test_refused(translator: Translator, statement: str) -> None:
    """Nothing is guessed: a call without a counterpart is a diagnostic that names it."""
    with pytest.raises(KtError) as caught:
        translator.statement(statement)
    assert caught.value.diagnostics[0].code == "KT0630"


def test_layout_is_kept_where_it_fits(translator: Translator) -> None:
    text = "assert n == x.size(0), (\n    f'{n} is wrong'  # say why\n)"
    assert translator.statement(text) == text.replace("x.size(0)", "x.shape[0]")


def test_comments_inside_a_rewritten_call_go_above_it(translator: Translator) -> None:
    text = "out = torch.empty(\n    x.shape,\n    # as torch.add does\n    dtype=x.dtype,\n)"
    assert translator.statement(text) == "# as torch.add does\nout = jnp.empty(x.shape, x.dtype)"


def test_long_statements_are_wrapped(translator: Translator) -> None:
    text = f"out = torch.empty([{', '.join(f'dimension_{i}' for i in range(8))}], dtype=x.dtype)"
    lines = translator.statement(text).split("\n")
    assert len(lines) > 1
    assert max(map(len, lines)) <= 96


def test_quoted_annotations_stay_quoted(translator: Translator) -> None:
    assert translator.annotation("'torch.Tensor'") == '"jax.Array"'


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("f(\n    a,\n    b,\n)", "f(a, b)"),
        ("x = [\n  1,  # one\n  2\n]", "x = [1, 2]"),
        ("f('a  b',\n  c)", "f('a  b', c)"),
    ],
)
def test_one_line(text: str, want: str) -> None:
    assert one_line(text) == want
