"""Lowers every kernel of a file for every one of its signatures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import libcst as cst

from transpile.frontend.builder import Builder
from transpile.frontend.facts import Facts, Unify
from transpile.frontend.helion.kernels import KernelFinder, KernelSite, module_env
from transpile.frontend.helion.lowering import Lowering
from transpile.frontend.helion.parameters import (
    LITERALS,
    NO_DEFAULT,
    SCALARS,
    Present,
    bare,
    host_scalar,
    is_function,
    is_plain,
)
from transpile.frontend.helion.program import Program
from transpile.frontend.helion.variants import WatchedNames, lacking, search
from transpile.frontend.options import FrontendOptions
from transpile.frontend.signatures import (
    LiteralSpec,
    Name,
    ScalarSpec,
    Spec,
    TensorSpec,
    format_signature,
    parse_jaxtyping,
    parse_literal,
    parse_spec,
)
from transpile.frontend.source import ParsedSource
from transpile.frontend.symbolic import HostShape
from transpile.frontend.syntax import names_read
from transpile.frontend.values import Env, NeedFact, Opaque
from transpile.ir import ir
from transpile.ir.diagnostics import Diagnostic, KtError, error
from transpile.ir.dtypes import BOOL, F32, I64, DType

MAX_RESTARTS = 64
DEFAULT_RANK = 2


def lower_file(
    source: ParsedSource, options: FrontendOptions
) -> tuple[list[ir.Kernel], list[Diagnostic]]:
    """All kernels of the file; every kernel's problems are collected, not the first only."""
    evaluator = Lowering(source, Builder(), {})
    env = module_env(source, evaluator)
    sites = KernelFinder(source, evaluator, env).sites()
    if not sites:
        raise error(
            "KT0102",
            "no kernel in this file",
            ir.Span(1, 1),
            why="a kernel is a function decorated with @helion.kernel, or made by helion.kernel(f)",
            remedy="decorate the function, or give another file",
        )
    if options.kernels:
        sites = [s for s in sites if s.name in options.kernels]
    kernels: list[ir.Kernel] = []
    found: list[Diagnostic] = unknown_names(source, sites, options) if sites else []
    for site in sites:
        try:
            made, notes = KernelDriver(source, site, options).lower()
            kernels.extend(made)
            found.extend(notes)
        except KtError as exc:
            found.extend(exc.diagnostics)
        except RecursionError:
            found.append(
                Diagnostic(
                    "KT0411",
                    f"'{site.name}' nests too deeply to be lowered",
                    source.span(site.node.name),
                    remedy="check the functions it calls for recursion",
                )
            )
    return kernels, found


def unknown_names(
    source: ParsedSource, sites: list[KernelSite], options: FrontendOptions
) -> list[Diagnostic]:
    """``--arg`` and ``--set`` names that no kernel of the file has."""
    known: set[str] = set()
    for site in sites:
        params = site.node.params
        for param in (*params.posonly_params, *params.params, *params.kwonly_params):
            known.add(param.name.value)
        if site.env.outer is not None:
            known |= set(site.env.names)
    if sites:
        sites[0].locate(source)
    where = source.span(sites[0].node.name) if sites else None
    return [
        Diagnostic(
            "KT0222",
            f"{option} {name}: no kernel of this file has a parameter '{name}'",
            where,
            remedy="the parameters are " + ", ".join(sorted(known)),
        )
        for option, names in (("--arg", options.args), ("--set", options.sets))
        for name in names
        if name not in known
    ]


class KernelDriver:
    """One kernel, all its signatures."""

    def __init__(self, source: ParsedSource, site: KernelSite, options: FrontendOptions) -> None:
        self.source = source
        self.site = site
        self.options = options
        self.settings = options.project.kernel(site.name)
        self.notes: list[Diagnostic] = []
        self.reads: set[str] = set()  # names that the last lowering looked up
        site.locate(source)
        self.params = [*site.node.params.posonly_params, *site.node.params.params,
                       *site.node.params.kwonly_params]  # fmt: skip
        self.names = [p.name.value for p in self.params]

    def lower(self) -> tuple[list[ir.Kernel], list[Diagnostic]]:
        self._check_outer()
        self._bind_outer()
        stated = self._signatures()
        if not self.settings.signatures and not self.options.args:
            return self._variants(stated[0]), self.notes
        kernels: list[ir.Kernel] = []
        problems: list[Diagnostic] = []
        for signature in stated:
            try:
                kernels.append(self._one(signature))
            except KtError as exc:
                problems.extend(d for d in exc.diagnostics if d not in problems)
        if problems:
            raise KtError(*problems)
        return kernels, self.notes

    # -- what is stated --------------------------------------------------------------------

    def _check_outer(self) -> None:
        """A factory's parameters that the kernel reads need values."""
        if self.site.env.outer is None:
            return
        stated = self._sets()
        for name in sorted(names_read([self.site.node])):
            if name not in stated and isinstance(self.site.env.names.get(name), Opaque):
                raise error(
                    "KT0224",
                    f"'{name}' needs a compile-time value",
                    self.source.span(self.site.node.name),
                    why="it is a parameter of the function that makes the kernel",
                    remedy=f"give one: --set {name}=VALUE",
                )

    def _bind_outer(self) -> None:
        """Compile-time values of a factory's parameters."""
        sets = self._sets()
        if self.site.env.outer is not None:
            for name, literal in sets.items():
                if name in self.site.env.names:
                    self.site.env.names[name] = self._literal(literal)

    def _sets(self) -> dict[str, Any]:
        sets: dict[str, Any] = dict(self.settings.sets)
        for name, text in self.options.sets.items():
            sets[name] = parse_literal(text, f"--set {name}")
        return sets

    def _literal(self, value: Any) -> Any:
        """A literal as the evaluator sees it; a bare name is looked up in the module."""
        if isinstance(value, Name):
            try:
                return self.site.env.lookup(value.id)
            except KeyError:
                raise error(
                    "KT0205",
                    f"'{value.id}' is not defined in the source file",
                    self.source.span(self.site.node.name),
                    remedy="quote a string value: --set name=\"'text'\"",
                ) from None
        return value

    def _signatures(self) -> list[dict[str, Spec]]:
        """Stated signatures, each parameter's first matching source."""
        arguments = {
            n: parse_spec(t, f"--arg {n}") for n, t in self.options.args.items() if n in self.names
        }
        bases: list[dict[str, Spec]] = [dict(s) for s in self.settings.signatures] or [{}]
        if arguments:
            bases = (
                [{**bases[0], **arguments}]
                if len(bases) == 1
                else [{**b, **arguments} for b in bases[:1]]
            )
        sets = {n: LiteralSpec(v) for n, v in self._sets().items() if n in self.names}
        annotated = self._annotated()
        out = []
        for base in bases:
            unknown = [n for n in base if n not in self.names]
            if unknown:
                raise error(
                    "KT0222",
                    f"'{self.site.name}' has no parameter '{unknown[0]}'",
                    self.source.span(self.site.node.name),
                    why="a signature of the project file names it",
                    remedy="its parameters are " + ", ".join(self.names),
                )
            out.append({**annotated, **base, **sets})
        return out

    def _annotated(self) -> dict[str, Spec]:
        out: dict[str, Spec] = {}
        for param in self.params:
            if param.annotation is not None:
                text = self.source.code(param.annotation.annotation)
                spec = parse_jaxtyping(text)
                if spec is not None:
                    out[param.name.value] = spec
        return out

    def _variants(self, base: dict[str, Spec]) -> list[ir.Kernel]:
        """Without a stated signature: every variant that the compile-time flags and the optional
        arguments lead to; one that does not lower is left out with a note."""
        others = {
            param.name.value: other
            for param in self.params
            if param.name.value not in base and (other := self._other_value(param)) is not None
        }
        attempts = search(base, others, self._attempt)
        first, kernels = attempts[0], [a.kernel for a in attempts if a.kernel is not None]
        absent = {n for n, other in others.items() if not isinstance(other, LiteralSpec)}
        if isinstance(first.result, KtError) and not (kernels and first.reads & absent):
            raise first.result
        for name, problem in lacking(attempts):
            message = f"'{self.site.name}' is not built for {name}={others[name]}: "
            reason = problem.diagnostics[0]
            self.notes.append(
                replace(reason, code="KT0223", severity="note", message=message + reason.message)
            )
        return kernels

    def _attempt(self, stated: dict[str, Spec]) -> tuple[ir.Kernel | KtError, frozenset[str]]:
        try:
            return self._one(stated), frozenset(self.reads)
        except KtError as exc:
            return exc, frozenset(self.reads)

    def _other_value(self, param: cst.Param) -> Any:
        """What a flag or an optional argument can be besides what it is by default."""
        annotation = self._annotation(param)
        default = self._default(param)
        if isinstance(default, bool) and "constexpr" in annotation:
            return LiteralSpec(not default)
        kind = bare(annotation)
        if default is None and kind in SCALARS:
            return ScalarSpec(SCALARS[kind])
        if "Tensor" not in annotation:
            return None
        if default is None:
            return Present()
        optional = "None" in annotation or "Optional" in annotation
        return LiteralSpec(None) if default is NO_DEFAULT and optional else None

    # -- one signature ---------------------------------------------------------------------

    def _one(self, stated: dict[str, Spec]) -> ir.Kernel:
        """Lower under these specs, learning what they leave open."""
        present = {n for n, s in stated.items() if isinstance(s, Present)}
        facts = Facts({n: s for n, s in stated.items() if n not in present}, params=self.names)
        for _ in range(MAX_RESTARTS):
            config = self._config()
            program = Program(self.source, self.site, config, facts)
            names = program.env.names = WatchedNames()
            self.reads = names.reads
            try:
                params = self._bind(program, facts, present)
                program.execute()
            except NeedFact as need:
                self._learn(facts, need)
                continue
            except Unify as unify:
                facts.equal[unify.sym] = unify.size
                continue
            self._note_assumed(program, facts)
            params = self._consulted(params, stated)
            return program.kernel(self._printable(program, facts, params), params)
        raise error(
            "KT0221",
            f"the types of '{self.site.name}' cannot be inferred",
            self.source.span(self.site.node.name),
            remedy="state them with --arg NAME=dtype[dims]",
        )

    def _consulted(
        self, params: tuple[ir.Param, ...], stated: dict[str, Spec]
    ) -> tuple[ir.Param, ...]:
        """A compile-time value that lowering never looked at may be anything."""
        return tuple(
            p if p.kind != "constexpr" or p.name in self.reads or p.name in stated
            else replace(p, kind="other", value=None)
            for p in params
        )  # fmt: skip

    def _config(self) -> dict[str, Any]:
        settings = self.site.settings
        config: dict[str, Any] = {}
        stated = settings.get("config")
        if stated is None and isinstance(settings.get("configs"), (list, tuple)):
            options = settings["configs"]
            stated = options[0] if options else None
        if isinstance(stated, dict):
            config.update(stated)
        for key in ("index_dtype",):
            if isinstance(settings.get(key), DType):
                config[key] = settings[key].torch
        config.update(self.settings.config or {})
        config.update(self.options.config or {})
        return config

    def _bind(self, program: Program, facts: Facts, present: set[str]) -> tuple[ir.Param, ...]:
        precision = self.site.settings.get("dot_precision")
        if isinstance(precision, str):
            program.dot_precision = precision
        out: list[ir.Param] = []
        for param in self.params:
            kind, value = self._parameter(program, facts, param, present)
            program.env.names[param.name.value] = value
            if kind == "constexpr" and not is_plain(value):
                kind = "function" if is_function(value) else "other"
            constant = value if kind == "constexpr" else None
            out.append(
                ir.Param(
                    param.name.value,
                    self._shown_annotation(param),
                    None if param.default is None else self.source.code(param.default),
                    kind,
                    constant,
                )
            )
        for star in (self.site.node.params.star_arg, self.site.node.params.star_kwarg):
            if isinstance(star, cst.Param):
                program.env.names[star.name.value] = Opaque("variadic arguments")
        return tuple(out)

    def _annotation(self, param: cst.Param) -> str:
        return "" if param.annotation is None else self.source.code(param.annotation.annotation)

    def _shown_annotation(self, param: cst.Param) -> str | None:
        text = self._annotation(param)
        if not text:
            return None
        if "constexpr" in text or "helion" in text or text.startswith("hl."):
            default = self._default(param)
            return type(default).__name__ if isinstance(default, (bool, int, float, str)) else None
        return text

    def _default(self, param: cst.Param) -> Any:
        if param.default is None:
            return NO_DEFAULT
        return Lowering(self.source, Builder(), {}).eval(param.default, self.site.env)

    def _parameter(
        self, program: Program, facts: Facts, param: cst.Param, present: set[str]
    ) -> tuple[Any, Any]:
        """(kind, value) of a parameter under the facts."""
        name = param.name.value
        spec = facts.stated.get(name)
        if isinstance(spec, TensorSpec) or name in present:
            return "tensor", facts.tensor(name)
        if isinstance(spec, LiteralSpec):
            return "constexpr", self._literal(spec.value)
        dtype = facts.scalar(name)
        if dtype is not None:
            return "scalar", host_scalar(name, dtype)
        return self._unstated(program, facts, param)

    def _unstated(self, program: Program, facts: Facts, param: cst.Param) -> tuple[Any, Any]:
        name, annotation = param.name.value, self._annotation(param)
        default = self._default(param)
        if "constexpr" in annotation or "ConstExpr" in annotation:
            if default is NO_DEFAULT:
                raise error(
                    "KT0224",
                    f"'{name}' needs a compile-time value",
                    self.source.span(param),
                    why="it is an hl.constexpr parameter without a default",
                    remedy=f"give one: --set {name}=VALUE",
                )
            return "constexpr", default
        kind = bare(annotation)
        if kind in SCALARS and default is not None:
            return "scalar", host_scalar(name, SCALARS[kind])
        if kind == "str" or isinstance(default, (str, DType)):
            if default is NO_DEFAULT:
                raise error(
                    "KT0224",
                    f"'{name}' needs a compile-time value",
                    self.source.span(param),
                    remedy=f"give one: --set {name}=\"'text'\"",
                )
            return "constexpr", default
        if default is None:
            return "constexpr", None
        if "Callable" in annotation or is_function(default):
            return "constexpr", Opaque(f"callable '{name}'") if default is NO_DEFAULT else default
        if isinstance(default, bool):
            return "scalar", host_scalar(name, BOOL)
        if isinstance(default, (int, float)):
            return "scalar", host_scalar(name, I64 if isinstance(default, int) else F32)
        if kind.startswith(("list", "tuple", "Sequence", "dict", "Size")):
            return "other", Opaque(f"parameter '{name}'", name)
        return "tensor", facts.tensor(name)

    def _learn(self, facts: Facts, need: NeedFact) -> None:
        if need.dtype is not None and need.param not in facts.dtypes:
            facts.dtypes[need.param] = need.dtype
            return
        if need.more and need.param in facts.guesses and need.param not in facts.ranks:
            need.rank = max(facts.guesses[need.param] + need.more, 0)
        known = need.param in facts.ranks or (need.rank is None and need.param in facts.guesses)
        if need.param not in self.names or known:
            raise error(
                "KT0221",
                f"the types of '{self.site.name}' cannot be inferred",
                self.source.span(self.site.node.name),
                why=f"what the body does with '{need.param}' gives no rank",
                remedy="state them with --arg NAME=dtype[dims]",
            )
        if need.rank is None:
            facts.guesses[need.param] = DEFAULT_RANK
        elif need.at_least:
            facts.guesses[need.param] = need.rank
        else:
            facts.ranks[need.param] = need.rank

    def _assumed(self, program: Program, facts: Facts) -> dict[str, Spec]:
        out: dict[str, Spec] = {}
        for name in self.names:
            if name in facts.assumed:
                spec = facts.describe(facts.tensor(name))
                if spec is not None:
                    out[name] = spec
        return out

    def _note_assumed(self, program: Program, facts: Facts) -> None:
        assumed = self._assumed(program, facts)
        if assumed and not any(n.code == "KT0208" for n in self.notes):
            text = " ".join(f"--arg '{n}={s}'" for n, s in assumed.items())
            self.notes.append(
                Diagnostic(
                    "KT0208",
                    f"'{self.site.name}' is built for assumed types: {format_signature(assumed)}",
                    self.source.span(self.site.node.name),
                    remedy=f"state them: {text}",
                    severity="note",
                )
            )

    def _printable(self, program: Program, facts: Facts, params: tuple[ir.Param, ...]) -> str:
        """The signature in full: what was stated, what was assumed, and the defaults that the
        kernel was built for, which tell its signatures apart."""
        shown: dict[str, Spec] = {}
        assumed = self._assumed(program, facts)
        for param in params:
            if param.name in facts.stated:
                shown[param.name] = facts.stated[param.name]
            elif param.name in assumed:
                shown[param.name] = assumed[param.name]
            elif param.kind == "constexpr" and isinstance(param.value, LITERALS):
                shown[param.name] = LiteralSpec(param.value)
        return format_signature(shown)


__all__ = ["Env", "HostShape", "lower_file"]
