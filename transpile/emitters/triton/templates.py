"""The Jinja skeletons of generated Triton files."""

from __future__ import annotations

from functools import cache

import jinja2

from transpile import resources


@cache
def _environment() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(resources.folder("templates") + "/triton")
    return jinja2.Environment(
        loader=loader,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )


def render_template(name: str, **values: object) -> str:
    """The text of a template of templates/triton."""
    return _environment().get_template(name).render(**values)
