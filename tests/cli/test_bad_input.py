"""Every kind of bad input has its diagnostic: code, line and column. One row per case."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.kt_command import ADD, SIGNATURE, kt, kt_process, snapshot

HEAD = "import torch\n\nimport helion\nimport helion.language as hl\n\n\n"
X_Y = SIGNATURE
MATRIX = ("--arg", "x=f32[M,N]", "--arg", "y=f32[M,N]")


def kernel(*body: str, decorator: str = "@helion.kernel()") -> str:
    """A file whose kernel's signature is in line 8 and whose body starts in line 9."""
    head = f"{HEAD}{decorator}\ndef kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:\n"
    return head + "".join(f"    {line}\n" for line in body)


def loop(*statements: str, decorator: str = "@helion.kernel()") -> str:
    """A kernel over one tile; the statements start in line 11, column 9."""
    return kernel(
        "out = torch.empty_like(x)",
        "for tile in hl.tile(x.size(0)):",
        *(f"    {s}" for s in statements),
        "return out",
        decorator=decorator,
    )


def helper(text: str) -> str:
    """A kernel that calls ``f``, behind the definition of helpers (which start in line 7)."""
    return HEAD + text + loop("out[tile] = f(x[tile])")[len(HEAD) :]


@dataclass(frozen=True)
class Bad:
    """A source that is refused, and where (column 0: somewhere in the line)."""

    name: str
    source: str
    code: str
    line: int
    col: int
    args: tuple[str, ...] = X_Y


COPY = "out[tile] = x[tile]"
CASES = [
    # the file
    Bad("syntax error", HEAD + "def f(:\n    pass\n", "KT0101", 7, 7),
    Bad("unclosed bracket", HEAD + "x = (1,\n", "KT0101", 7, 5),
    Bad("indentation", HEAD + "def f():\n  x = 1\n    y = 2\n", "KT0101", 9, 4),
    Bad("no kernel", HEAD + "def f(x):\n    return x\n", "KT0102", 1, 1, ()),
    Bad("empty file", "", "KT0023", 1, 1),
    Bad("blank file", "\n  \n", "KT0023", 1, 1),
    Bad("null byte", "x = 1\ny = '\0'\n", "KT0022", 2, 6),
    Bad("too large", ADD + "# " + "x" * (512 * 1024), "KT0020", 1, 1),
    Bad("deep parentheses", "x = " + "(" * 5000 + ")" * 5000, "KT0104", 1, 0),
    Bad("deep operators", "x = " + "-" * 60_000 + "1", "KT0104", 1, 1),
    Bad("deep calls", "x = a" + "()" * 60_000, "KT0104", 1, 1),
    Bad("two kernels of one name", loop(COPY) + loop(COPY)[len(HEAD) :], "KT0105", 14, 5),
    Bad("no device loop", kernel("return x + y"), "KT0103", 8, 5),
    # operations
    Bad("unknown op", loop("out[tile] = torch.frobnicate(x[tile])"), "KT0418", 11, 21),
    Bad("unknown method", loop("out[tile] = x[tile].frob()"), "KT0418", 11, 21),
    Bad("unknown hl function", loop("out[tile] = hl.frobnicate(x[tile])"), "KT0402", 11, 21),
    Bad("undefined name", loop("out[tile] = x[tile] + nope"), "KT0403", 11, 31),
    # ranks and shapes
    Bad("too many indices", loop("out[tile] = x[tile, tile]"), "KT0506", 11, 21),
    Bad("too few indices", loop("out[tile] = x[tile]"), "KT0506", 11, 21, MATRIX),
    Bad("no broadcast", kernel(
        "out = torch.empty_like(x)",
        "for tile in hl.tile(x.size()):",
        "    out[tile] = x[tile] + x[tile].sum(-1)",
        "return out",
    ), "KT0502", 11, 21, MATRIX),
    Bad("matmul shapes", kernel(
        "out = torch.empty_like(x)",
        "for tile in hl.tile(x.size()):",
        "    out[tile] = x[tile] @ y[tile]",
        "return out",
    ), "KT0505", 11, 21, MATRIX),
    Bad("no promotion", loop("out[tile] = x[tile] + y[tile]"), "KT0501", 11, 21,
        ("--arg", "x=f8e4m3[N]", "--arg", "y=f16[N]")),
    # tiles and names out of scope
    Bad("tile after its loop", kernel(
        "out = torch.empty_like(x)",
        "for tile in hl.tile(x.size(0)):",
        "    out[tile] = x[tile]",
        "for other in hl.tile(x.size(0)):",
        "    out[other] = y[tile]",
        "return out",
    ), "KT0403", 13, 24),
    Bad("value of one branch", loop(
        "if x[tile].sum() > 0:", "    z = x[tile]", "out[tile] = z"
    ), "KT0404", 13, 21),
    # configurations
    Bad("block no power of two", loop(COPY), "KT0213", 8, 5,
        (*X_Y, "--config", '{"block_sizes": [48]}')),
    Bad("block no power of two, in the source", loop(
        COPY, decorator="@helion.kernel(config=helion.Config(block_sizes=[48]))"
    ), "KT0213", 8, 5),
    Bad("fixed block no power of two", kernel(
        "out = torch.empty_like(x)",
        "for tile in hl.tile(x.size(0), block_size=48):",
        "    out[tile] = x[tile]",
        "return out",
    ), "KT0424", 10, 5),
    Bad("too many block sizes", loop(COPY), "KT0212", 8, 5,
        (*X_Y, "--config", '{"block_sizes": [64, 64]}')),
    Bad("unknown config key", loop(COPY), "KT0210", 8, 5, (*X_Y, "--config", '{"num_wraps": 4}')),
    Bad("config value type", loop(COPY), "KT0211", 8, 5, (*X_Y, "--config", '{"num_warps": "x"}')),
    Bad("config value range", loop(COPY), "KT0211", 8, 5, (*X_Y, "--config", '{"num_warps": 3}')),
    Bad("config value word", loop(COPY), "KT0211", 8, 5, (*X_Y, "--config", '{"pid_type": "x"}')),
    # signatures
    Bad("ranks differ", loop("out[tile] = x[tile] + y[tile]"), "KT0506", 11, 31,
        ("--arg", "x=f32[N]", "--arg", "y=f32[M,N]")),
    Bad("false assertion", kernel(
        "assert x.size(0) == y.size(0)",
        "out = torch.empty_like(x)",
        "for tile in hl.tile(x.size(0)):",
        "    out[tile] = x[tile]",
        "return out",
    ), "KT0303", 9, 5, ("--arg", "x=f32[64]", "--arg", "y=f32[32]")),
    Bad("unpacked rank", kernel(
        "m, n = x.size()",
        "out = torch.empty_like(x)",
        "for tile in hl.tile(m):",
        "    out[tile] = x[tile]",
        "return out",
    ), "KT0410", 9, 5),
    Bad("scalar for a tensor", loop("out[tile] = x[tile] + y[tile]"), "KT0405", 11, 31,
        ("--arg", "x=f32[N]", "--arg", "y=f32")),
    Bad("no such parameter", loop(COPY), "KT0222", 8, 5, ("--arg", "x=f32[N]", "--arg", "z=f32")),
    # the device language
    Bad("host tensor", loop("out[tile] = x + y[tile]"), "KT0406", 11, 21),
    Bad("host tensor as argument", loop("out[tile] = torch.exp(x)"), "KT0406", 11, 21),
    Bad("shape from data", loop(
        "n = y[tile].sum()", "z = hl.zeros([n])", "out[tile] = x[tile]"
    ), "KT0511", 12, 13),
    Bad("boolean selection", loop("out[tile] = x[tile][x[tile] > 0]"), "KT0510", 11, 21),
    Bad("nonzero", loop("out[tile] = torch.nonzero(x[tile])"), "KT0418", 11, 21),
    Bad("recursion", helper("def f(v):\n    return f(v) + 1\n\n\n"), "KT0411", 8, 12),
    Bad("mutual recursion", helper(
        "def f(v):\n    return g(v)\n\n\ndef g(v):\n    return f(v)\n\n\n"
    ), "KT0411", 12, 12),
    Bad("return", loop("return x[tile]"), "KT0402", 11, 9),
    Bad("break", loop("for i in range(4):", "    break", COPY), "KT0402", 12, 13),
    Bad("with", loop("with open('f'):", "    pass"), "KT0402", 11, 9),
    Bad("try", loop("try:", "    pass", "finally:", "    pass"), "KT0402", 11, 9),
    Bad("run-time ternary", loop(
        "out[tile] = x[tile] if x[tile].sum() > 0 else y[tile]"
    ), "KT0402", 11, 21),
    Bad("condition per lane", loop("if x[tile] > 0:", "    out[tile] = x[tile]"), "KT0409", 11, 9),
    Bad("chained assignment", loop("a = b = x[tile]", "out[tile] = a"), "KT0402", 11, 9),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input(case: Bad, tmp_path: Path) -> None:
    source, out = tmp_path / "bad.py", tmp_path / "gen"
    source.write_bytes(case.source.encode())
    done = kt("build", source, "-t", "triton", "-o", out, *case.args)
    assert done.code == 3
    column = case.col or r"\d+"  # 0: it varies between versions of Python
    place = rf"^{source}:{case.line}:{column}: error {case.code}: "
    assert re.search(place, done.err, re.MULTILINE), done.err
    assert "Traceback" not in done.err
    assert "KT0900" not in done.err
    assert not out.exists()


WRONG = [
    # Programs that read well and cannot be meant: name, source, line of the mistake, arguments.
    ("else of a tile loop", kernel(
        "out = torch.empty_like(x)",
        "for tile in hl.tile(x.size(0)):",
        "    out[tile] = x[tile]",
        "else:",
        "    out[0] = 1",
        "return out",
    ), 12, X_Y),
    ("tile in host code", loop(COPY).replace("return out", "return out[tile]"), 12, X_Y),
    ("static tensor shorter than the loop", loop("out[tile] = x[tile] + y[tile]"), 11,
     ("--arg", "x=f32[64]", "--arg", "y=f32[32]")),
    ("static index out of range", loop("out[tile] = x[tile] + y[5]"), 11,
     ("--arg", "x=f32[N]", "--arg", "y=f32[4]")),
    ("shift of floats", loop("out[tile] = x[tile] << y[tile]"), 11, X_Y),
    ("complex dtype", loop("out[tile] = x[tile].to(torch.complex64)"), 11, X_Y),
]  # fmt: skip


@pytest.mark.parametrize(
    ("source_text", "line", "args"), [a[1:] for a in WRONG], ids=[a[0] for a in WRONG]
)
def test_wrong_program(source_text: str, line: int, args: tuple[str, ...], tmp_path: Path) -> None:
    source = tmp_path / "bad.py"
    source.write_text(source_text)
    done = kt("build", source, "-t", "triton", "-o", tmp_path / "gen", *args)
    assert done.code == 3
    assert f"bad.py:{line}:" in done.err
    assert "KT0900" not in done.err


SIGNATURES = [
    # SPEC of x, code, column
    ("f17[N]", "KT0202", 1),
    ("f32[N,,M]", "KT0203", 7),
    ("f32[0]", "KT0203", 5),
    ("f32[M,N]{0,0}", "KT0204", 9),
    ("f32[M", "KT0201", 4),
    ("", "KT0201", 1),
]


@pytest.mark.parametrize(("spec", "code", "col"), SIGNATURES, ids=[s[0] for s in SIGNATURES])
def test_bad_signature(spec: str, code: str, col: int, tmp_path: Path) -> None:
    source = tmp_path / "add.py"
    source.write_text(ADD)
    done = kt("build", source, "-t", "triton", "-o", tmp_path / "gen", "--arg", f"x={spec}")
    assert done.code == 3
    assert f"--arg x:1:{col}: error {code}: " in done.err
    if spec:
        assert f"    {spec}\n    {' ' * (col - 1)}^" in done.err


def test_bad_project_file(tmp_path: Path) -> None:
    (tmp_path / "add.py").write_text(ADD)
    (tmp_path / "kt.toml").write_text('[kernels.add]\nsignatures = [{ x = "f17[N]" }]\n')
    done = kt("build", tmp_path / "add.py", "-t", "triton", "-o", tmp_path / "gen")
    assert done.code == 3
    assert "kt.toml:2:22: error KT0202: unknown dtype `f17`" in done.err


BYTES = [
    (b"\x89PNG\r\n\x1a\n\x00\x00", "KT0022", 3, 1),
    (b"x = 1\ny = '\xff'\n", "KT0021", 2, 6),
    ("# größe\n".encode("latin-1"), "KT0021", 1, 5),
    (b"\xff\xfex\x00", "KT0022", 1, 4),
]


@pytest.mark.parametrize(("data", "code", "line", "col"), BYTES, ids=[repr(b[0]) for b in BYTES])
def test_bytes_that_are_no_source(
    data: bytes, code: str, line: int, col: int, tmp_path: Path
) -> None:
    source = tmp_path / "bad.py"
    source.write_bytes(data)
    done = kt("build", source, "-t", "triton", "-o", tmp_path / "gen")
    assert done.code == 3
    assert f"bad.py:{line}:{col}: error {code}: " in done.err


def test_byte_order_mark_and_line_ends_are_fine(tmp_path: Path) -> None:
    texts = set()
    encoded = (ADD.encode(), ADD.encode("utf-8-sig"), ADD.replace("\n", "\r\n").encode())
    for i, data in enumerate(encoded):
        folder = tmp_path / str(i)
        folder.mkdir()
        (folder / "add.py").write_bytes(data)
        done = kt("build", folder / "add.py", "-t", "triton", "-o", folder / "gen", *X_Y)
        assert done.code == 0, done.err
        lines = (folder / "gen" / "add_triton.py").read_text().split("\n")
        texts.add("\n".join(lines[1:]))  # the first line has the digest
    assert len(texts) == 1


def test_file_names(tmp_path: Path) -> None:
    for name in ("a'b.py", 'a"""b.py', "a\nb.py", "_kt.py"):
        (tmp_path / name).write_text(ADD)
        done = kt("build", tmp_path / name, "-t", "triton", "-o", tmp_path / "gen", *X_Y)
        assert done.code in (2, 3)
        assert "KT0024" in done.err or "KT0007" in done.err
    for name in ("größe.py", "a b.py", "x.y.py", "kernel"):
        (tmp_path / name).write_text(ADD)
        done = kt("build", tmp_path / name, "-t", "triton", "-o", tmp_path / "gen", *X_Y)
        assert done.code == 0, done.err


def test_same_stem(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "add.py").write_text(ADD)
    files = [tmp_path / "a" / "add.py", tmp_path / "b" / "add.py"]
    done = kt("build", *files, "-t", "triton", "-o", tmp_path / "gen", *X_Y)
    assert done.code == 2
    assert "KT0007" in done.err
    assert not (tmp_path / "gen").exists()


NAMES = [
    "tl", "triton", "kt", "torch_", "half", "kernel", "device", "thread", "jnp", "lambda_", "grid",
    "pid", "mask", "offs", "pl", "mx", "float4", "constexpr", "BLOCK", "range_", "print_", "_",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_any_name_works(name: str, tmp_path: Path) -> None:
    """Variables and kernels may be called like something of a target's."""
    source = tmp_path / "named.py"
    text = loop(f"{name} = x[tile] + 1", f"{name} = {name} * y[tile]", f"out[tile] = {name}")
    source.write_text(text.replace("def kernel", f"def {name}"))
    done = kt("build", source, "-t", "triton", "-o", tmp_path / "gen", *X_Y)
    assert done.code == 0, done.err
    compile((tmp_path / "gen" / "named_triton.py").read_text(), "named_triton.py", "exec")


def test_everything_wrong_at_once(tmp_path: Path) -> None:
    """All of a file's problems in one run, and the old output stays."""
    out = tmp_path / "gen"
    source = tmp_path / "bad.py"
    source.write_text(ADD)
    kt("build", source, "-t", "triton", "-o", out, *X_Y)
    before = snapshot(out)
    first = loop("out[tile] = torch.frobnicate(x[tile])")
    second = loop("out[tile] = x + y[tile]")[len(HEAD) :].replace("def kernel", "def other")
    source.write_text(first + second)
    done = kt_process("build", source, "-t", "triton", "-o", out, *X_Y)
    assert done.code == 3
    assert "bad.py:11:21: error KT0418" in done.err
    assert "bad.py:17:21: error KT0406" in done.err
    assert snapshot(out) == before
