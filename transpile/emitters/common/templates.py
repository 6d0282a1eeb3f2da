"""The Jinja skeletons of generated files."""

from __future__ import annotations

from functools import cache

import jinja2

from transpile import resources


@cache
def _environment(target: str) -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(f"{resources.folder('templates')}/{target}")
    return jinja2.Environment(
        loader=loader,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )


def render_template(target: str, name: str, **values: object) -> str:
    """The text of a template of templates/``target``."""
    return _environment(target).get_template(name).render(**values)
