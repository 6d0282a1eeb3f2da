"""SPEC, ``--set`` values and jaxtyping annotations: what they mean, and what is refused where."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transpile.frontend.signatures import (
    LiteralSpec,
    Name,
    ScalarSpec,
    Spec,
    TensorSpec,
    check_dispatch,
    covers,
    format_literal,
    format_signature,
    parse_jaxtyping,
    parse_literal,
    parse_spec,
)
from transpile.ir import dtypes
from transpile.ir.diagnostics import KtError
from transpile.ir.dtypes import BF16, BOOL, F4E2M1X2, F8E4M3, F16, F32, I32, I64, U8

GOOD_SPECS: list[tuple[str, Spec]] = [
    ("f16[M,K]", TensorSpec(F16, ("M", "K"))),
    (" bf16 [ M , 128 ] ", TensorSpec(BF16, ("M", 128))),
    ("f8e4m3[K,N]{0,1}", TensorSpec(F8E4M3, ("K", "N"), (0, 1))),
    ("f16[M,K]{1,0}", TensorSpec(F16, ("M", "K"))),  # row-major is the default
    ("f32[A,B,C]{0, 2, 1}", TensorSpec(F32, ("A", "B", "C"), (0, 2, 1))),
    ("f4e2m1x2[_,N]", TensorSpec(F4E2M1X2, (None, "N"))),
    ("i64[]", TensorSpec(I64, ())),
    ("i64[]{}", TensorSpec(I64, ())),
    ("f32[N]{0}", TensorSpec(F32, ("N",))),
    ("u8[1]", TensorSpec(U8, (1,))),
    ("f32", ScalarSpec(F32)),
    ("bool", ScalarSpec(BOOL)),
    (" i32 ", ScalarSpec(I32)),
    ("True", LiteralSpec(True)),
    ("None", LiteralSpec(None)),
    ("16", LiteralSpec(16)),
    ("-1e-5", LiteralSpec(-1e-5)),
    ("'gelu'", LiteralSpec("gelu")),
    ("(1, 2)", LiteralSpec((1, 2))),
]


@pytest.mark.parametrize(("text", "spec"), GOOD_SPECS, ids=[t for t, _ in GOOD_SPECS])
def test_spec(text: str, spec: Spec) -> None:
    assert parse_spec(text) == spec
    assert parse_spec(str(spec)) == spec


BAD_SPECS = [
    # text, code, column, a word of the message
    ("", "KT0201", 1, "empty"),
    ("  ", "KT0201", 3, "empty"),
    ("[M,K]", "KT0201", 1, "dtype"),
    ("f16[M,K", "KT0201", 4, "not closed"),
    ("f16[M,[K]]", "KT0201", 4, "nested"),
    ("f16(M,K)", "KT0201", 4, "unexpected"),
    ("f16[M,K] x", "KT0201", 10, "unexpected"),
    ("f16[M,K]{1,0}x", "KT0201", 14, "unexpected"),
    ("f16[M,K]{1,0", "KT0201", 9, "unexpected"),
    ("f17[M]", "KT0202", 1, "f17"),
    (" float16[M]", "KT0202", 2, "float16"),
    ("torch.float16[M]", "KT0202", 1, "torch.float16"),
    ("f16[M,,K]", "KT0203", 7, "missing"),
    ("f16[,M]", "KT0203", 5, "missing"),
    ("f16[M,]", "KT0203", 7, "missing"),
    ("f16[M, K-1]", "KT0203", 8, "K-1"),
    ("f16[M,-4]", "KT0203", 7, "-4"),
    ("f16[0]", "KT0203", 5, "of 0"),
    ("f16[M,4.5]", "KT0203", 7, "4.5"),
    ("f16[M]{0,1}", "KT0204", 7, "permutation"),
    ("f16[M,K]{0}", "KT0204", 9, "permutation"),
    ("f16[M,K]{0,0}", "KT0204", 9, "permutation"),
    ("f16[M,K]{1,2}", "KT0204", 9, "permutation"),
    ("f16[M,K]{1,x}", "KT0204", 12, "x"),
    ("f16[M,K]{1,-1}", "KT0204", 12, "-1"),
    ("'gelu", "KT0205", 1, "no literal"),
    ("1 +", "KT0205", 1, "no literal"),
    ("f32[99999999999,99999999999]", "KT0207", 5, "elements"),
]


@pytest.mark.parametrize(("text", "code", "col", "word"), BAD_SPECS, ids=[b[0] for b in BAD_SPECS])
def test_bad_spec(text: str, code: str, col: int, word: str) -> None:
    with pytest.raises(KtError) as caught:
        parse_spec(text, "--arg x")
    (diag,) = caught.value.diagnostics
    assert (diag.code, diag.file) == (code, "--arg x")
    assert diag.span is not None
    assert (diag.span.line, diag.span.col) == (1, col)
    assert word in diag.message


@pytest.mark.parametrize(
    ("text", "meant"),
    [("float16", "f16"), ("torch.bfloat16", "bf16"), ("fp8", "f8e4m3"), ("F16", "f16"),
     ("long", "i64"), ("bf61", "bf16")],
)  # fmt: skip
def test_unknown_dtype_suggests(text: str, meant: str) -> None:
    with pytest.raises(KtError) as caught:
        parse_spec(f"{text}[M]")
    assert f"write `{meant}`" in caught.value.diagnostics[0].remedy


@given(st.text(alphabet="f16bi32[]{},_MK0 '(\\-\n\x00é", max_size=20))
def test_any_text_is_a_spec_or_a_diagnostic(text: str) -> None:
    with contextlib.suppress(KtError):
        spec = parse_spec(text)
        assert parse_spec(str(spec)) == spec


DIMS = st.lists(st.one_of(st.none(), st.integers(1, 999), st.sampled_from("MNK")), max_size=4)


@given(st.sampled_from(dtypes.ALL), DIMS, st.data())
def test_printed_specs_parse_back(
    dtype: dtypes.DType, dims: list[str | int | None], data: st.DataObject
) -> None:
    order = tuple(data.draw(st.permutations(range(len(dims)))))
    row_major = order == tuple(range(len(dims)))[::-1]
    spec = TensorSpec(dtype, tuple(dims), None if row_major else order)
    assert parse_spec(str(spec)) == spec


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("True", True), ("16", 16), ("-2.5", -2.5), ("1e-5", 1e-5), ("None", None),
        ("'tanh'", "tanh"), ("float16", F16), ("torch.float16", F16), ("f16", F16), ("bool", BOOL),
        ("relu", Name("relu")), ("[1, 2]", (1, 2)), ("(1,)", (1,)), (" 3 ", 3),
    ],
)  # fmt: skip
def test_literal(text: str, value: object) -> None:
    parsed = parse_literal(text)
    assert parsed == value
    assert type(parsed) is type(value)
    assert parse_literal(format_literal(parsed)) == value


@pytest.mark.parametrize(
    ("text", "col"), [("", 1), ("a b", 1), (" 1+x", 2), ("{1: 2}", 1), ("lambda: 1", 1), ("f(", 1)]
)
def test_bad_literal(text: str, col: int) -> None:
    with pytest.raises(KtError) as caught:
        parse_literal(text, "--set x")
    (diag,) = caught.value.diagnostics
    assert diag.code == "KT0205"
    assert diag.span is not None
    assert diag.span.col == col


@pytest.mark.parametrize(
    ("annotation", "spec"),
    [
        ('Float16[Tensor, "M K"]', "f16[M,K]"),
        ("BFloat16[torch.Tensor, 'M 128']", "bf16[M,128]"),
        ('jaxtyping.Float32[torch.Tensor, ""]', "f32[]"),
        ('Int32[Tensor, "_ heads=8"]', "i32[_,8]"),
        ('Bool[Tensor, "n"] | None', "bool[n]"),
        ('Optional[UInt8[Tensor, "n"]]', "u8[n]"),
        ("'Float64[Tensor, \"n\"]'", "f64[n]"),
        ('Float[Tensor, "M K"]', None),  # any float
        ('Float16[Tensor, "*batch K"]', None),
        ('Float16[Tensor, "... K"]', None),
        ('Float16[Tensor, "#M K"]', None),
        ('Float16[Tensor, "M+1"]', None),
        ("Float16[Tensor, M]", None),
        ("torch.Tensor", None),
        ("int", None),
        ("", None),
    ],
)
def test_jaxtyping(annotation: str, spec: str | None) -> None:
    assert parse_jaxtyping(annotation) == (None if spec is None else parse_spec(spec))


def _signature(text: str) -> dict[str, Spec]:
    pairs = (item.split("=", 1) for item in text.split("; "))
    return {name: parse_spec(spec) for name, spec in pairs}


def test_format_signature() -> None:
    signature = _signature("x=f16[M,K]; y=f8e4m3[K,_]{0,1}; eps=f32; causal=True; act='gelu'")
    text = "x=f16[M,K], y=f8e4m3[K,_]{0,1}, eps=f32, causal=True, act='gelu'"
    assert format_signature(signature) == text


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("x=f16[M]", "x=f16[N]", True),
        ("x=f16[M]", "x=f16[128]", True),
        ("x=f16[128]", "x=f16[M]", False),
        ("x=f16[M]", "x=bf16[M]", False),
        ("x=f16[M,N]", "x=f16[M,N]{0,1}", False),
        ("x=f16[M,N]", "x=f16[M,M]", True),
        ("x=f16[M,M]", "x=f16[M,N]", False),
        ("x=f16[_,_]", "x=f16[M,N]", True),
        ("x=f16[M,M]", "x=f16[_,_]", False),
        ("x=f16[M]; y=f16[M]", "x=f16[M]; y=f16[8]", False),
        ("x=f16[M]; c=True", "x=f16[M]; c=1", False),
        ("x=f16[M]; c=True", "x=f16[M]; c=True", True),
        ("x=f16[M]; y=f32", "x=f16[M]", False),
    ],
)
def test_covers(first: str, second: str, expected: bool) -> None:
    assert covers(_signature(first), _signature(second)) is expected


def test_unreachable_signature_is_reported_once() -> None:
    signatures = [_signature("x=f16[M]"), _signature("x=f16[128]"), _signature("x=f32[M]")]
    (diag,) = check_dispatch(signatures, "kt.toml")
    assert diag.code == "KT0206"
    assert "signature 2" in diag.message
