"""Host functions: what is an output, what is changed, what is returned."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pallas_host.hosts import host_text, load, signatures_text
from transpile.emitters.pallas.hostjax import distinct
from transpile.ir.diagnostics import KtError

CASES = {
    # an uninitialised allocation is the launch's result
    "fresh": (
        """
        @helion.kernel()
        def f(x: torch.Tensor) -> torch.Tensor:
            m, n = x.size()
            # one row more
            out = torch.empty([m + 1, n], dtype=x.dtype, device=x.device)
            for t in hl.tile(m):
                out[t, :] = x[t, :]
            return out
        """,
        """
        m, n = x.shape
        # one row more
        return _call_0(x, out=jax.ShapeDtypeStruct((m + 1, n), x.dtype))
        """,
    ),
    # what is asked of it before keeps it as a shape
    "asked": (
        """
        @helion.kernel()
        def f(x: torch.Tensor) -> torch.Tensor:
            out = torch.empty_like(x)
            other = torch.zeros_like(out)
            assert out.size(0) == 4
            for t in hl.tile(x.size(0)):
                out[t, :] = x[t, :]
            return out, other
        """,
        """
        out = jax.ShapeDtypeStruct(x.shape, x.dtype)
        other = jnp.zeros_like(out)
        assert out.shape[0] == 4
        out = _call_0(x, out=out)
        return out, other
        """,
    ),
    # written through a view: the tensor follows
    "view": (
        """
        @helion.kernel()
        def f(x: torch.Tensor) -> torch.Tensor:
            x_flat = x.view(-1)
            out = torch.empty_like(x)
            out_flat = out.view(-1)
            for t in hl.tile(x_flat.size(0)):
                out_flat[t] = x_flat[t]
            return out
        """,
        """
        x_flat = x.reshape(-1)
        out_flat = _call_0(x_flat, out_flat=jax.ShapeDtypeStruct((x_flat.shape[0],), x.dtype))
        return out_flat.reshape(x.shape)
        """,
    ),
    # through a slice: the rest of the tensor stays
    "slice": (
        """
        @helion.kernel()
        def f(x: torch.Tensor) -> torch.Tensor:
            m, n = x.size()
            out = torch.empty([m, n + 3], dtype=x.dtype, device=x.device)
            left = out[:, :n]
            for t in hl.tile(m):
                left[t, :] = x[t, :]
            return out
        """,
        """
        m, n = x.shape
        out = jnp.empty((m, n + 3), x.dtype)
        left = out[:, :n]
        left = _call_0(x, left)
        return out.at[:, :n].set(left)
        """,
    ),
    # zeros hold something: they go in, unless all of them is overwritten
    "zeros": (
        """
        @helion.kernel()
        def f(x: torch.Tensor) -> torch.Tensor:
            out = torch.zeros_like(x)
            for t in hl.tile(x.size(0)):
                out[t, :] = x[t, :]
            return out
        """,
        """
        out = jnp.zeros_like(x)
        return _call_0(x, out)
        """,
    ),
    # changed parameters are returned
    "in place": (
        """
        @helion.kernel()
        def f(x: torch.Tensor, y: torch.Tensor) -> None:
            for t in hl.tile(x.size(0)):
                y[t, :] += 1
                x[t, :] = y[t, :]
        """,
        """
        y, x = _call_0(y, x)
        return x, y
        """,
    ),
    # behind the source's own results
    "in place and returning": (
        """
        @helion.kernel()
        def f(x: torch.Tensor) -> torch.Tensor:
            out = torch.empty_like(x)
            for t in hl.tile(x.size(0)):
                out[t, :] = x[t, :]
                x[t, :] = 0.0
            return out
        """,
        """
        return _call_0(x, out=jax.ShapeDtypeStruct(x.shape, x.dtype))
        """,
    ),
    # a second launch gets what the first one made
    "two phases": (
        """
        @helion.kernel()
        def f(x: torch.Tensor) -> torch.Tensor:
            y = torch.empty_like(x)
            out = torch.empty_like(x)
            for t in hl.tile(x.size(0)):
                y[t, :] = x[t, :]
            for t in hl.tile(x.size(0)):
                out[t, :] = y[t, :]
            return out
        """,
        """
        y = _call_0(x, y=jax.ShapeDtypeStruct(x.shape, x.dtype))
        return _call_1(y, out=jax.ShapeDtypeStruct(x.shape, x.dtype))
        """,
    ),
    # an allocation under a condition is an array
    "conditional": (
        """
        @helion.kernel()
        def f(x: torch.Tensor, flag: hl.constexpr = True) -> torch.Tensor:
            if flag:
                out = torch.empty_like(x)
            else:
                out = torch.zeros_like(x)
            for t in hl.tile(x.size(0)):
                out[t, :] = x[t, :]
            return out
        """,
        """
        if flag:
            out = jnp.empty_like(x)
        else:
            out = jnp.zeros_like(x)
        return _call_0(x, out)
        """,
    ),
}


def body(text: str) -> str:
    """The statements of the (last) function, without its head."""
    lines = text.rstrip().split("\n")
    start = max(i for i, line in enumerate(lines) if line.startswith(("def ", ")")))
    return "\n".join(line[4:] for line in lines[start + 1 :])


@pytest.mark.parametrize("name", CASES)
def test_host_function(tmp_path: Path, name: str) -> None:
    source, want = CASES[name]
    got = host_text(tmp_path, source, x="f32[M,N]", y="f32[M,N]")
    assert body(got).split("\n") == [line.strip() if not line.startswith("            ") else line[8:]
                                     for line in want.strip("\n").rstrip().split("\n")]  # fmt: skip


def test_overwritten_zeros_are_an_output(tmp_path: Path) -> None:
    source, _ = CASES["zeros"]
    got = host_text(tmp_path, source, overwritten=True, x="f32[M,N]")
    assert "return _call_0(x, out=jax.ShapeDtypeStruct(x.shape, x.dtype))" in got


def test_decorator_says_what_is_checked(tmp_path: Path) -> None:
    source = """
        @helion.kernel()
        def f(x: torch.Tensor, n: int, eps: float = 1e-5, flag: hl.constexpr = True) -> torch.Tensor:
            out = torch.empty([n], dtype=x.dtype, device=x.device)
            for t in hl.tile(n):
                out[t] = x[t] + eps if flag else x[t]
            return out
        """
    got = host_text(tmp_path, source, x="f32[M]", n="i32")
    assert '@kt.kernel(x="f32[M]", n="static i32", flag="True", eps="f32")' in got
    assert "def f(x: jax.Array, n: int, eps: float = 1e-5, flag: bool = True) -> jax.Array:" in got


def test_write_through_a_rebound_parameter_is_refused(tmp_path: Path) -> None:
    source = """
        @helion.kernel()
        def f(x: torch.Tensor) -> None:
            x = x.view(-1)
            for t in hl.tile(x.size(0)):
                x[t] = 1.0
        """
    with pytest.raises(KtError, match="KT0631"):
        host_text(tmp_path, source, x="f32[M,N]")


PICK = """
    @helion.kernel()
    def f(x: torch.Tensor, i: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(x)
        for t in hl.tile(x.size(0)):
            out[t] = x[t] + i[t]
        return out
    """


def test_signatures_are_told_apart_as_arrays(tmp_path: Path) -> None:
    """An i64 tensor is an i32 array: dtypes of 64-bit integers tell nothing."""
    specs = [("bf16[N]", "i64[N]"), ("f32[N]", "i32[N]")]
    got = signatures_text(tmp_path, PICK, [{"x": x, "i": i} for x, i in specs])
    assert "    if x.dtype == jnp.bfloat16:\n        return _call_0_bf16_i64(x, i, " in got
    assert "\n    return _call_0_f32_i32(x, i, " in got


def test_equal_arrays_are_one_signature(tmp_path: Path) -> None:
    specs = [
        {"x": "f32[M,N]", "i": i} for i in ("i64[M,N]", "i32[M,N]", "i32[M,N]{0,1}", "i8[M,N]")
    ]
    kernels = load(tmp_path, PICK.replace("[t]", "[t, :]"), specs)
    assert [k.signature for k in distinct(kernels)] == [
        "x=f32[M,N], i=i64[M,N]",
        "x=f32[M,N], i=i8[M,N]",
    ]


@pytest.mark.parametrize("name", ["jnp", "pl", "kt"])
def test_names_of_the_generated_module_are_refused(tmp_path: Path, name: str) -> None:
    source = (
        CASES["fresh"][0]
        .replace("m, n = x.size()", f"m, {name} = x.size()")
        .replace("[m + 1, n]", f"[m + 1, {name}]")
    )
    with pytest.raises(KtError, match="KT0632"):
        host_text(tmp_path, source, x="f32[M,N]")


def test_host_calls_are_listed() -> None:
    """What `kt targets` says comes from the tables that translate."""
    from transpile.emitters.pallas.hostjax_text import host_calls

    assert {"empty_like", "promote_types", "gelu", ".view", ".sum", ".zero_"} <= set(host_calls())
