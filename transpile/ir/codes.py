"""The diagnostic codes, one table grouped by range. docs/diagnostics.md is made from it
(``python -m transpile.ir.diagnostics > docs/diagnostics.md``).

To add a code, add a row to its range. A code never changes its meaning once released.
"""

from __future__ import annotations

from typing import NamedTuple


class CodeInfo(NamedTuple):
    """``title`` is a short noun phrase, ``explanation`` what the rule is and what to do."""

    title: str
    explanation: str


RANGES = {
    "KT000": "Command line (exit code 2)",
    "KT001": "Command line: verify and run (exit code 2)",
    "KT002": "Source files",
    "KT003": "Project files (kt.toml, pyproject.toml)",
    "KT01": "Parsing and module level",
    "KT02": "Signatures and configurations",
    "KT03": "Host program",
    "KT04": "Device code: constructs",
    "KT05": "Device code: shapes, dtypes and indexing",
    "KT06": "Target limits",
    "KT09": "Internal",
}

_I = CodeInfo

CODES: dict[str, CodeInfo] = {
    # -- KT000x, KT001x: command line, exit code 2 ----------------------------------------------
    "KT0001": _I("no such file", "A path given on the command line does not exist."),
    "KT0002": _I("a directory", "kt reads files; give the files, or a pattern such as `dir/*.py`."),
    "KT0003": _I("unreadable file", "The operating system refused to open or read the file."),
    "KT0004": _I("pattern without a match", "A glob pattern on the command line matches no file."),
    "KT0005": _I("malformed option value", "An option is not of the form that `kt --help` shows."),
    "KT0006": _I("option given twice", "The same name is given two values on the command line."),
    "KT0007": _I(
        "two inputs, one output",
        "Two input files have the same stem, so that both would write the same file. Build them "
        "into different directories.",
    ),
    "KT0008": _I(
        "output not writable",
        "The output directory or a file in it cannot be written, or is not what it should be.",
    ),
    "KT0009": _I("malformed --config", "`--config` takes a JSON object, or `@FILE` with one."),
    "KT0010": _I("unknown architecture", "`--arch` names no architecture of the chosen targets."),
    "KT0011": _I("no such kernel", "`--kernel` (or FILE::KERNEL) names no kernel of the files."),
    "KT0012": _I("wrong tensor file", "The tensors for `kt run` do not fit the kernel."),
    "KT0013": _I("missing package", "A package that this command needs is not installed."),
    "KT0014": _I("missing device", "`kt run` without --simulate needs the target's device."),
    "KT0015": _I("run failed", "The generated function raised an error for the given tensors."),
    # -- KT002x: source files -------------------------------------------------------------------
    "KT0020": _I("source too large", "A kernel file may have up to 512 KiB."),
    "KT0021": _I("not UTF-8", "Kernel files are Python source in UTF-8."),
    "KT0022": _I("null byte", "Python source cannot contain null bytes; is this a binary file?"),
    "KT0023": _I("empty file", "The file has no source text."),
    "KT0024": _I(
        "file name", "Names of kernel files are printable, without quotes and backslashes."
    ),
    # -- KT003x: project files ------------------------------------------------------------------
    "KT0030": _I("malformed TOML", "The project file is not valid TOML."),
    "KT0031": _I("unknown key", "The project file has a key that kt does not know."),
    "KT0032": _I("wrong type of value", "A key of the project file has a value of another type."),
    "KT0033": _I("malformed reference", "`reference` is written `FILE:FUNCTION`."),
    # -- KT01xx: parsing and module level -------------------------------------------------------
    "KT0101": _I("syntax error", "The file is not valid Python."),
    "KT0102": _I("no kernel", "The file defines no function with a kernel decorator."),
    "KT0103": _I(
        "kernel without a device loop",
        "A kernel needs a `for` over hl.tile or hl.grid in its host program.",
    ),
    "KT0104": _I("nesting too deep", "The source nests too deeply to be parsed."),
    "KT0105": _I(
        "two kernels of one name",
        "Each kernel of a file becomes a function of its name.",
    ),
    # -- KT02xx: signatures and configurations --------------------------------------------------
    "KT0201": _I(
        "malformed signature",
        "A SPEC is `dtype`, `dtype[dims]` or `dtype[dims]{order}`, such as `f16[M,K]`, "
        "`f8e4m3[K,N]{0,1}` or `i32`; or a Python literal.",
    ),
    "KT0202": _I(
        "unknown dtype",
        "The dtypes are bool i8 u8 i16 u16 i32 u32 i64 u64 f16 bf16 f32 f64 f8e4m3 f8e5m2 "
        "f4e2m1x2.",
    ),
    "KT0203": _I(
        "bad dimension",
        "A dimension is a name (dynamic), an integer of at least 1 (static) or `_` (anonymous).",
    ),
    "KT0204": _I(
        "bad layout order",
        "The order in braces lists every dimension once, minor to major: `{1,0}` is row-major "
        "for rank 2 and `{0,1}` column-major.",
    ),
    "KT0205": _I("malformed value", "`--set` takes a Python literal, a dtype or a bare name."),
    "KT0206": _I(
        "unreachable signature",
        "Calls are dispatched to the first signature that fits; an earlier one of the same kernel "
        "takes everything that this one would.",
    ),
    "KT0207": _I(
        "impossible size", "No tensor of this size exists: it has more than 2**63 - 1 elements."
    ),
    "KT0208": _I(
        "assumed signature",
        "A note, no error: nothing states the parameter's type, so that one was assumed from how "
        "the body uses it. State it by --arg, in kt.toml or with a jaxtyping annotation.",
    ),
    "KT0210": _I(
        "unknown config key", "The keys are those of helion.Config and the kernel's tunables."
    ),
    "KT0211": _I(
        "bad config value", "The value of a config key is of the wrong type or out of range."
    ),
    "KT0212": _I(
        "wrong number of block sizes",
        "`block_sizes` has one entry for each `hl.register_block_size` and each `hl.tile` "
        "dimension "
        "without a block size of its own, in source order.",
    ),
    "KT0213": _I("block size is no power of two", "Tiles have power-of-two sizes on every target."),
    "KT0216": _I(
        "loop cannot be static",
        "`static_ranges` unrolls a loop, so its bounds must be numbers at build time.",
    ),
    "KT0215": _I(
        "reduction cannot be rolled",
        "`reduction_loops` asks for chunks of an axis that has to stay whole.",
    ),
    "KT0214": _I("bad loop order", "An entry of `loop_orders` lists each axis of its loop once."),
    "KT0221": _I(
        "types not inferable",
        "What the body does with a parameter does not tell its rank. State it by --arg, in "
        "kt.toml or with a jaxtyping annotation.",
    ),
    "KT0222": _I(
        "no such parameter",
        "A signature names a parameter that the kernel does not have.",
    ),
    "KT0223": _I(
        "variant left out",
        "A note, no error: without a stated signature, the other value of a flag and optional "
        "tensors are built too where they can be.",
    ),
    "KT0224": _I(
        "compile-time value missing",
        "An hl.constexpr or string parameter without a default needs a value by --set.",
    ),
    # -- KT03xx: host program -------------------------------------------------------------------
    "KT0302": _I("no such dimension", "A tensor is asked for a dimension beyond its rank."),
    "KT0303": _I(
        "false assertion",
        "An assertion of the host program is false for the given signature.",
    ),
    "KT0304": _I(
        "unnamed host number",
        "A host expression reaches the device without being bound to a variable first.",
    ),
    "KT0305": _I(
        "tensor without a name",
        "A tensor used on the device must be a variable where the kernel is launched.",
    ),
    "KT0306": _I(
        "grid extent not known at launch",
        "The extents of the outermost loop are sizes of tensors or integer arguments.",
    ),
    # -- KT04xx: device code, constructs --------------------------------------------------------
    "KT0401": _I(
        "wrong operand",
        "An operation of the device language does not take this kind of value.",
    ),
    "KT0402": _I(
        "construct not in the device language",
        "Device code has loops over tiles, `if`, `while`, assignments and calls; no return, "
        "break, continue, with, try, run-time ternary.",
    ),
    "KT0403": _I("undefined name", "No scope defines the name."),
    "KT0404": _I(
        "name out of scope",
        "A tile or a value of a loop is used after the loop, or one set in only one branch "
        "after the `if`.",
    ),
    "KT0405": _I(
        "bad sequence index",
        "Sequences in device code are indexed at compile time, within their length.",
    ),
    "KT0406": _I(
        "host tensor without a subscript",
        "Device code sees device memory only through loads and stores: index the tensor with "
        "tiles.",
    ),
    "KT0407": _I(
        "undefined arithmetic",
        "A compile-time expression divides by zero or leaves a function's domain.",
    ),
    "KT0408": _I("undefined operator", "Python defines no such operator for these values."),
    "KT0409": _I(
        "condition per lane",
        "Control flow needs one truth value; select per lane with torch.where.",
    ),
    "KT0410": _I("bad unpacking", "The number of names and the number of values differ."),
    "KT0411": _I(
        "recursion",
        "Device functions are inlined, so their calls must end at compile time.",
    ),
    "KT0412": _I("wrong arguments", "A call does not fit the function's parameters."),
    "KT0413": _I(
        "not a host tensor",
        "Loads, stores and atomics address tensors of the host program.",
    ),
    "KT0414": _I(
        "not a combine function",
        "A reduction or scan takes a function of two values (or tuples).",
    ),
    "KT0415": _I("not a tile", "The function takes a tile of hl.tile."),
    "KT0416": _I(
        "no such tile attribute",
        "Tiles have index, begin, end, id, count and block_size.",
    ),
    "KT0417": _I(
        "host function on the device",
        "The function takes part in the launch; call it before the loop.",
    ),
    "KT0418": _I(
        "torch function not supported",
        "kt has no lowering for this torch function in device code.",
    ),
    "KT0419": _I(
        "assignment into a tile",
        "Only tensors of the host program have addressable elements.",
    ),
    "KT0420": _I(
        "false device assertion",
        "An assertion in device code is false at compile time.",
    ),
    "KT0421": _I(
        "bad jagged tile",
        "hl.jagged_tile takes row lengths: an integer tile over enclosing tile axes.",
    ),
    "KT0422": _I(
        "static range",
        "hl.static_range is unrolled, so its bounds must be compile-time integers.",
    ),
    "KT0423": _I(
        "bad loop bounds",
        "Loop bounds are integers, begin not after end, lists of one length.",
    ),
    "KT0424": _I(
        "bad block_size",
        "A block size is a power of two, or the value of hl.register_block_size.",
    ),
    "KT0425": _I(
        "unstable loop variable",
        "A variable carried through a loop must keep one dtype and shape.",
    ),
    # -- KT05xx: device code, shapes, dtypes and indexing ---------------------------------------
    "KT0501": _I("no promotion", "torch defines no common dtype for the operands."),
    "KT0502": _I(
        "shapes do not broadcast",
        "Axes must be the same loop's tile, the same dimension, or 1.",
    ),
    "KT0503": _I("no such axis", "A tile is asked for an axis beyond its rank."),
    "KT0504": _I("bad product", "A product takes two 2-D or two 3-D tiles."),
    "KT0505": _I("inner axes differ", "The operands of a product must share the inner loop."),
    "KT0506": _I(
        "wrong number of indices",
        "Every dimension of a tensor is indexed on the device.",
    ),
    "KT0507": _I("not an index", "Indices are tiles, integers, slices, None and integer tiles."),
    "KT0508": _I("slice with a step", "Slices on the device are contiguous."),
    "KT0509": _I(
        "slice of unknown length",
        "A tile's size must be known from block sizes and host sizes.",
    ),
    "KT0510": _I(
        "index on a register tile",
        "A tile in registers can only be reshaped by None and ':'.",
    ),
    "KT0511": _I("not a shape", "Shapes are made of tiles, block sizes and host integers."),
    "KT0512": _I("bad reshape", "A reshape keeps the number of elements."),
    "KT0513": _I(
        "bad stack or split",
        "Stacks join a power-of-two number of tiles, splits halve an axis of size 2.",
    ),
    "KT0514": _I("reduction over several axes", "Reduce one axis after the other."),
    "KT0515": _I("sort along an inner axis", "Sorting works along the last axis."),
    "KT0516": _I(
        "access beyond a static dimension",
        "A loop or an index reaches past the end of a dimension whose size is stated.",
    ),
    "KT0517": _I("dtype not supported", "kt has no complex and no quantised dtypes."),
    # -- KT06xx: target limits ------------------------------------------------------------------
    "KT0601": _I("target not available", "This version of kt has no emitter for the target yet."),
    "KT0604": _I(
        "schedule key left out",
        "A note, no error: the target cannot follow a key of the config. Warp specialisation hangs "
        "on sm_90 with Triton 3.6 and is written for sm_100 only (`--arch sm_100`). Triton has no "
        "block pointers any more: `block_ptr` means pointers. On Pallas it names the loops that "
        "cannot have the form that `pallas_loop_type` asks for.",
    ),
    "KT0605": _I(
        "tile too large for registers",
        "A thread would hold more elements of one tile than the target has registers for.",
    ),
    "KT0606": _I(
        "too much shared memory",
        "What the threads of a group share must fit in the memory that the target has for it.",
    ),
    "KT0602": _I(
        "not on this target", "The operation has no counterpart in the target's language."
    ),
    "KT0610": _I(
        "type not on Metal",
        "Apple GPUs have no 64-bit floats. The other dtypes of kt exist there; 8-bit floats are "
        "bytes that the generated code decodes.",
    ),
    "KT0611": _I(
        "too much threadgroup memory",
        "A threadgroup has 32 KB on Apple GPUs. Smaller block sizes or fewer stages need less.",
    ),
    "KT0612": _I("too many threads", "A threadgroup has at most 1024 threads."),
    "KT0613": _I(
        "too many buffers",
        "A Metal kernel takes 31 buffers: one per tensor, and one for all scalars together.",
    ),
    "KT0614": _I("grid of too many dimensions", "A Metal grid has three dimensions."),
    "KT0615": _I(
        "not on this family of GPUs",
        "Kernels are built for all Apple GPUs from Apple7 (M1, A14) on unless `--arch` says which "
        "family they are for; a few features begin later.",
    ),
    "KT0630": _I(
        "host call without a JAX counterpart",
        "Pallas modules take and return jax.Array, so the host program is rewritten in jax.numpy; "
        "this call of it cannot be. What needs a value on the host (`.item()`) cannot run under "
        "jax.jit.",
    ),
    "KT0631": _I(
        "write through a view",
        "The kernel writes to a view of a tensor from which kt cannot compute the tensor's new "
        "value: JAX arrays have no views. Write to the tensor itself, or to a slice, a reshape "
        "or a permutation of it.",
    ),
    "KT0632": _I(
        "name that generated code needs",
        "A variable of the host program has the name under which the generated module imports "
        "another module (`jnp`, `pl`, `kt`, ...).",
    ),
    "KT0640": _I(
        "too much vector memory",
        "The blocks that a TPU kernel works on at once do not fit into a core's vector memory "
        "(128 MiB on v5e and v6e, 64 MiB on v5p and 7x). The message lists them.",
    ),
    # -- KT09xx: internal -----------------------------------------------------------------------
    "KT0900": _I(
        "internal error",
        "A bug in kt, not in the source. Please report it with the source; KT_DEBUG=1 prints the "
        "traceback.",
    ),
}


def is_usage(code: str) -> bool:
    """True for what is wrong with the command line, not with a source: exit code 2 instead of 3."""
    return code.startswith(("KT000", "KT001"))


def markdown() -> str:
    """The text of docs/diagnostics.md."""
    lines = [
        "# Diagnostics",
        "",
        "Every message of kt has a code. A diagnostic names the place (`file:line:col`), shows the",
        "source line, says why the rule is there and what to do. Exit code 2 is wrong usage",
        "(`KT000x`, `KT001x`), 3 a source that is wrong or unsupported.",
        "",
        "This page is made from `transpile/ir/codes.py` by",
        "`python -m transpile.ir.diagnostics > docs/diagnostics.md`.",
    ]
    for prefix, title in RANGES.items():
        rows = [(c, i) for c, i in sorted(CODES.items()) if _range_of(c) == prefix]
        if rows:
            lines += ["", f"## {title}", "", "| code | what | explanation |", "|---|---|---|"]
            lines += [f"| {c} | {_cell(i.title)} | {_cell(i.explanation)} |" for c, i in rows]
    return "\n".join(lines) + "\n"


def _range_of(code: str) -> str:
    return max((p for p in RANGES if code.startswith(p)), key=len, default="")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
