"""The schedule of a kernel: every `helion.Config` key checked and resolved, with our defaults.

Keys are those of helion.Config. A key of another target is ignored, an unknown one or a value
out of range is a KT021x diagnostic. What the config leaves open is chosen by the kernel's shape.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from transpile.ir import ir
from transpile.ir.diagnostics import Diagnostic, KtError, error
from transpile.ir.sizes import Size, Sym
from transpile.passes.defaults import Defaults, choose
from transpile.passes.roll import reduction_sizes

PID_TYPES = ("flat", "xyz", "persistent_blocked", "persistent_interleaved")
INDEXING = ("pointer", "block_ptr", "tensor_descriptor")
LOOP_TYPES = ("unroll", "fori_loop", "emit_pipeline")

#: singular spellings that helion.Config takes too
ALIASES = {
    "block_size": "block_sizes",
    "loop_order": "loop_orders",
    "flatten_loop": "flatten_loops",
    "l2_grouping": "l2_groupings",
    "reduction_loop": "reduction_loops",
    "range_unroll_factor": "range_unroll_factors",
    "range_num_stage": "range_num_stages",
    "range_multi_buffer": "range_multi_buffers",
    "range_flatten": "range_flattens",
    "range_warp_specialize": "range_warp_specializes",
    "static_range": "static_ranges",
    "load_eviction_policy": "load_eviction_policies",
    "load_cache_modifier": "load_cache_modifiers",
    "store_cache_modifier": "store_cache_modifiers",
}

#: keys that mean something on some targets only
_OF_TARGET = {
    "metal": ("num_threads",),
    "cute": ("num_threads",),
    "pallas": ("pallas_loop_type",),
}
#: keys that mean something on some target other than Triton on NVIDIA; accepted and ignored there
ELSEWHERE = frozenset(
    [
        "pallas_loop_type",
        "pallas_load_buffer_count",
        "pallas_pre_broadcast",
        "pallas_indirect_access_mode",
        "pallas_worklist_grouping",
        "num_threads",
        "cute_vector_widths",
        "xcd_remap",
        "waves_per_eu",
        "matrix_instr_nonkdim",
        "advanced_controls_file",
        "occupancy",
        "host_tensor_descriptors",
        "reduction_fusion",
        "cross_loop_pipeline",
    ]
)
ELSEWHERE_PREFIXES = ("pallas_", "tcgen05_", "cute_", "metal_", "flydsl_")

_LISTS = {
    "loop_orders", "flatten_loops", "l2_groupings", "reduction_loops", "range_unroll_factors",
    "range_num_stages", "range_multi_buffers", "range_flattens", "range_warp_specializes",
    "static_ranges", "load_eviction_policies", "load_cache_modifiers", "store_cache_modifiers",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class PhaseSchedule:
    """How program ids map to one phase's grid. ``order[0]`` is the fastest-varying axis."""

    order: tuple[int, ...]
    pid_type: str
    group: int


@dataclass(eq=False, slots=True)
class Schedule:
    """Everything about a kernel's code that its source leaves open."""

    blocks: dict[Sym, int]
    config: dict[str, Any]  # plural keys, only those given
    phases: dict[int, PhaseSchedule] = field(default_factory=dict)  # by source loop
    num_warps: int | None = 4
    num_stages: int | None = None
    dynamic_blocks: dict[Sym, Size] = field(default_factory=dict)
    row: Size | None = None  # num_warps follows from this run-time width
    indexing: str = "pointer"  # of accesses for which the config says nothing
    arch: str = ""
    left_out: set[str] = field(default_factory=set)  # keys that cannot be followed
    notes: list[Diagnostic] = field(default_factory=list)  # loops that cannot follow a key
    reduction_loops: tuple[int | None, ...] = ()
    tunable: tuple[Sym, ...] = ()  # block sizes that `block_sizes` gives, in order

    def phase(self, phase: ir.Phase) -> PhaseSchedule:
        plan = self.phases[phase.loop]
        if len(plan.order) != len(phase.axes):  # flattened
            return PhaseSchedule(tuple(range(len(phase.axes))), plan.pid_type, 1)
        return plan

    def _entry(self, key: str, index: int, default: Any = None) -> Any:
        value = self.config.get(key)
        if isinstance(value, (list, tuple)):
            return value[index] if index < len(value) else default
        return default if value is None else value

    def range_knobs(self, loop: int) -> tuple[str, list[str]]:
        """The range function of a loop and its keyword arguments, printed."""
        knobs: list[str] = []
        if self._entry("static_ranges", loop):
            return "tl.static_range", knobs
        if stages := self._entry("range_num_stages", loop):
            knobs.append(f"num_stages={stages}")
        if unroll := self._entry("range_unroll_factors", loop):
            knobs.append(f"loop_unroll_factor={unroll}")
        if (multi := self._entry("range_multi_buffers", loop)) is not None:
            knobs.append(f"disallow_acc_multi_buffer={not multi}")
        if (flatten := self._entry("range_flattens", loop)) is not None:
            knobs.append(f"flatten={flatten}")
        if (warp := self._entry("range_warp_specializes", loop)) is not None:
            if warp and not self.arch.startswith("sm_10"):
                self.left_out.add("range_warp_specializes")
            else:
                knobs.append(f"warp_specialize={warp}")
        for key, value in sorted(self.config.items()):
            name = key.removeprefix("_triton_range_id_")
            if name != key and value == loop:
                knobs.append(f"{name}={self.config.get(f'_triton_range_value_{name}')!r}")
        return "tl.range", knobs

    @property
    def uses_pointers(self) -> bool:
        """True if no access is to go through a tensor descriptor."""
        chosen = self.config.get("indexing", self.indexing)
        kinds = [chosen] if isinstance(chosen, str) else chosen
        return "tensor_descriptor" not in kinds

    def by_descriptor(self, access: int) -> bool:
        """True if the n-th load or store is to go through a tensor descriptor.

        Block pointers are gone from Triton; where there are some, its compiler makes pointers of
        them, so ``block_ptr`` is one more name for these."""
        return bool(self._entry("indexing", access, self.indexing) == "tensor_descriptor")

    def eviction(self, load: int) -> str:
        """tl.load's eviction policy for the n-th load, "" for none."""
        policy = str(self._entry("load_eviction_policies", load, ""))
        return {"first": "evict_first", "last": "evict_last"}.get(policy, policy)

    def load_modifier(self, load: int) -> str:
        return str(self._entry("load_cache_modifiers", load, ""))

    def store_modifier(self, store: int) -> str:
        return str(self._entry("store_cache_modifiers", store, ""))

    def launch_options(self) -> dict[str, object]:
        """Options of Triton's launch, in printing order."""
        options: dict[str, object] = {}
        if self.num_warps is not None:
            options["num_warps"] = self.num_warps
        if self.num_stages is not None:
            options["num_stages"] = self.num_stages
        for key in ("num_ctas", "maxnreg"):
            if (value := self.config.get(key)) is not None:
                options[key] = value
        for key, value in sorted(self.config.items()):
            if key.startswith("_triton_config_"):
                options[key.removeprefix("_triton_config_")] = value
        return options

    def describe(self, keys: Collection[str] | None = None) -> str:
        """One line for the generated file's header: what was used of these keys (None: of all), in
        a fixed order."""
        parts = []
        if sizes := [self.blocks[s] for s in self.tunable]:
            parts.append(f"block_sizes={sizes}")
        shown = {k: v for k, v in self.config.items() if k != "block_sizes"}
        if self.row is None:
            shown.setdefault("num_warps", self.num_warps)
        shown.setdefault("num_stages", self.num_stages)
        if self.indexing != "pointer":
            shown.setdefault("indexing", self.indexing)
        if keys is not None:
            shown = {k: v for k, v in shown.items() if k in keys}
        parts += [f"{k}={v!r}" for k, v in sorted(shown.items()) if v is not None]
        return ", ".join(parts)


def resolve(kernel: ir.Kernel, target: str = "triton", arch: str = "") -> Schedule:
    """Check ``kernel.config`` and choose what it leaves open.

    Raises KtError with one diagnostic per bad key.
    """
    problems: list[KtError] = []
    config = _normalise(kernel, target, problems)
    _check_values(kernel, config, problems)
    defaults = choose(kernel, config, target)
    blocks, dynamic = _blocks(kernel, config, defaults, problems)
    schedule = Schedule(blocks, config, dynamic_blocks=dynamic, arch=arch)
    schedule.tunable = tuple(b.sym for b in kernel.blocks if b.fixed is None)
    schedule.reduction_loops = _reduction_loops(kernel, config, problems)
    schedule.num_warps = _number(config, "num_warps", defaults.num_warps, 1, 32, problems)
    if "num_warps" not in config:
        schedule.row = defaults.row
    if config.keys().isdisjoint(("block_sizes", "indexing")) and not arch.startswith("sm_8"):
        schedule.indexing = defaults.indexing
    if "block_ptr" in (config.get("indexing") or ""):
        schedule.left_out.add("indexing")
    schedule.num_stages = _number(
        config, "num_stages", defaults.num_stages, 1, 16, problems, pow2=False
    )
    for ordinal, phase in enumerate(kernel.phases):
        schedule.phases[phase.loop] = _phase(kernel, phase, ordinal, config, defaults, problems)
    if problems:
        found = (d for p in problems for d in p.diagnostics)
        raise KtError(*(d if d.span else dataclasses.replace(d, span=kernel.span) for d in found))
    return schedule


_KNOWN = {
    "block_sizes", "num_warps", "num_stages", "pid_type", "num_sm_multiplier", "maxnreg",
    "indexing", "atomic_indexing", "epilogue_subtile", "num_ctas", "index_dtype",
} | _LISTS  # fmt: skip


def _normalise(kernel: ir.Kernel, target: str, problems: list[KtError]) -> dict[str, Any]:
    """The keys that concern this target under their plural names, None entries left out."""
    config: dict[str, Any] = {}
    tunables: tuple[str, ...] = getattr(kernel, "tunables", ())
    for key, value in kernel.config.items():
        name = ALIASES.get(key, key)
        here = name in _OF_TARGET.get(target, ())
        elsewhere = name in ELSEWHERE or name.startswith(ELSEWHERE_PREFIXES)
        if (elsewhere and not here) or value is None:
            continue
        known = here or name in _KNOWN or name.startswith("_triton_") or name in tunables
        if not known:
            remedy = "the keys are those of helion.Config; see `kt targets`"
            unknown = error("KT0210", f"unknown config key `{key}`", kernel.span, remedy=remedy)
            problems.append(unknown)
            continue
        config[name] = _listed(key, name, value)
    return config


def _is_count(value: Any, low: int = 1, *, power: bool = False) -> bool:
    good = isinstance(value, int) and not isinstance(value, bool) and value >= low
    return good and not (power and value & (value - 1))


def _is_flag(value: Any) -> bool:
    return value is None or isinstance(value, bool)


#: what each value, or each entry of a list, must be
_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "l2_groupings": (_is_count, "integers of at least 1"),
    "flatten_loops": (_is_flag, "True or False"),
    "range_unroll_factors": (lambda v: _is_count(v, 0), "integers of at least 0"),
    "range_num_stages": (lambda v: _is_count(v, 0), "integers of at least 0"),
    "range_multi_buffers": (_is_flag, "True, False or None"),
    "range_flattens": (_is_flag, "True, False or None"),
    "range_warp_specializes": (_is_flag, "True, False or None"),
    "static_ranges": (_is_flag, "True or False"),
    "load_eviction_policies": (lambda v: v in ("", "first", "last"), "'', 'first' or 'last'"),
    "load_cache_modifiers": (lambda v: v in ("", ".ca", ".cg", ".cv"), "'', '.ca' or '.cg'"),
    "store_cache_modifiers": (
        lambda v: v in ("", ".wb", ".cg", ".cs", ".wt"),
        "'', '.cs' or '.wt'",
    ),
    "indexing": (lambda v: v in INDEXING, " or ".join(INDEXING)),
    "atomic_indexing": (lambda v: v in INDEXING, " or ".join(INDEXING)),
    "num_sm_multiplier": (_is_count, "an integer of at least 1"),
    "maxnreg": (_is_count, "an integer of at least 1"),
    "num_ctas": (lambda v: _is_count(v, power=True), "a power of two"),
    "epilogue_subtile": (lambda v: v in (1, 2, 4), "1, 2 or 4"),
    "pallas_loop_type": (lambda v: v in LOOP_TYPES, " or ".join(LOOP_TYPES)),
    "pid_type": (lambda v: v in PID_TYPES, " or ".join(PID_TYPES)),
}


def _check_values(kernel: ir.Kernel, config: dict[str, Any], problems: list[KtError]) -> None:
    for key, value in config.items():
        check = _CHECKS.get(key)
        entries = value if isinstance(value, (list, tuple)) else [value]
        if check is not None and not all(check[0](entry) for entry in entries):
            text = f"{key}={value!r}: expected {check[1]}"
            problems.append(error("KT0211", text, kernel.span))
            config[key] = [] if key in _LISTS else None


def _listed(key: str, name: str, value: Any) -> Any:
    """The value of a list key given in the singular, or as a bare value, as a list."""
    whole = name == "loop_orders" and value and isinstance(value[0], list)
    if (key in ALIASES and not whole) or (name in _LISTS and not isinstance(value, (list, tuple))):
        return [value]
    return value


def _number(
    config: dict[str, Any], key: str, default: int | None, low: int, high: int,
    problems: list[KtError], *, pow2: bool = True,
) -> int | None:  # fmt: skip
    value = config.get(key, default)
    if value is None:
        return None
    good = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
    if not good or (pow2 and value & (value - 1)):
        kind = "a power of two" if pow2 else "an integer"
        problems.append(error("KT0211", f"{key}={value!r}: expected {kind} from {low} to {high}"))
        return default
    return int(value)


def _blocks(
    kernel: ir.Kernel, config: dict[str, Any], defaults: Defaults, problems: list[KtError]
) -> tuple[dict[Sym, int], dict[Sym, Size]]:
    blocks: dict[Sym, int] = {}
    dynamic: dict[Sym, Size] = {}
    tunable = [b for b in kernel.blocks if b.fixed is None]
    given = config.get("block_sizes")
    if given is not None and not isinstance(given, (list, tuple)):
        given = [given]
    if given is not None and len(given) != len(tunable):
        names = ", ".join(b.sym.name for b in tunable) or "none"
        problems.append(
            error(
                "KT0212",
                f"block_sizes has {len(given)} entries for {len(tunable)} tunable blocks",
                kernel.span,
                why=f"the tunable blocks are, in order: {names}",
            )
        )
        given = None
    for i, block in enumerate(tunable):
        value = defaults.blocks[block.sym] if given is None or given[i] is None else given[i]
        if (
            not isinstance(value, int)
            or isinstance(value, bool)
            or value < 1
            or value & (value - 1)
        ):
            problems.append(
                error("KT0213", f"block size {value!r} of `{block.sym.name}` is no power of two",
                      kernel.span)
            )  # fmt: skip
            value = 1
        blocks[block.sym] = value
    for block in kernel.blocks:
        if block.fixed is None:
            continue
        number = block.fixed.substitute(blocks).as_int()
        if number is None:
            dynamic[block.sym] = block.fixed
        elif number < 1 or number & (number - 1):
            problems.append(
                error("KT0213", f"block size {number} of `{block.sym.name}` is no power of two",
                      kernel.span)
            )  # fmt: skip
        else:
            blocks[block.sym] = number
    return blocks, dynamic


_LONGEST_ROW = 16384  # elements of a row that one program holds by default


def _reduction_loops(
    kernel: ir.Kernel, config: dict[str, Any], problems: list[KtError]
) -> tuple[int | None, ...]:
    """Chunk of each reduced full slice, None for the whole; long static rows are chunked."""
    sizes = reduction_sizes(kernel)
    given = config.get("reduction_loops")
    if given is None:
        lengths = [s.as_int() for s in sizes]
        return tuple(4096 if n is not None and n > _LONGEST_ROW else None for n in lengths)
    for chunk in given:
        good = chunk is None or (isinstance(chunk, int) and chunk > 0 and not chunk & (chunk - 1))
        if not good:
            problems.append(
                error(
                    "KT0211",
                    f"reduction_loops={given!r}: expected powers of two or None",
                    kernel.span,
                )
            )
            return ()
    return tuple(8 if chunk == 1 else chunk for chunk in given)


def _phase(
    kernel: ir.Kernel, phase: ir.Phase, ordinal: int, config: dict[str, Any],
    defaults: Defaults, problems: list[KtError],
) -> PhaseSchedule:  # fmt: skip
    rank = len(phase.axes)
    multi = [p for p in kernel.phases if len(p.axes) > 1]
    at = multi.index(phase) if phase in multi else len(multi)
    order = defaults.orders[phase.loop]
    orders = config.get("loop_orders", [])
    if rank > 1 and at < len(orders):
        order = tuple(orders[at])
        if sorted(order) != list(range(rank)):
            problems.append(
                error("KT0214", f"loop_orders[{at}]={list(order)} is no permutation of {rank} axes",
                      phase.span or kernel.span)
            )  # fmt: skip
            order = tuple(range(rank))
    groups = config.get("l2_groupings")
    group = (
        (groups[at] if at < len(groups) else 1)
        if groups is not None
        else defaults.groups[phase.loop]
    )
    if rank < 2:
        group = 1
    pid_type = str(config.get("pid_type") or "flat")
    if pid_type == "xyz" and (rank > 3 or rank < 2):
        pid_type = "flat"
    return PhaseSchedule(order, pid_type, group if pid_type != "xyz" else 1)
