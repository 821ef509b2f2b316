"""Pages from Jinja templates (report/)."""

from pathlib import Path
from typing import Any

import jinja2


def page(template: Path, **values: Any) -> str:
    """Return a page, from a template, which may include others of its folder. Values are escaped."""
    loader = jinja2.FileSystemLoader(template.parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.get_template(template.name).render(**values)
