"""Pages from Jinja templates (report/), and tables in Markdown."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jinja2


def page(template: Path, **values: Any) -> str:
    """Return a page, from a template, which may include others of its folder. Values are escaped."""
    loader = jinja2.FileSystemLoader(template.parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.get_template(template.name).render(**values)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; bars and ends of lines in cells are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(
        f"| {' | '.join(' '.join(str(c).replace('|', chr(92) + '|').split()) for c in line)} |\n" for line in lines
    )
