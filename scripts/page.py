"""A table in Markdown as an HTML page for the report."""

from pathlib import Path
from typing import Annotated

import typer

from pruning.core import cli

STYLE = """body{font:15px/1.5 system-ui,sans-serif;color:#222;margin:2rem auto;max-width:80rem;padding:0 1rem}
table{border-collapse:collapse;display:block;overflow-x:auto;font-size:13px;margin:1rem 0}
th,td{border-bottom:1px solid #ddd;padding:.3rem .6rem;text-align:left;vertical-align:top}
th{border-bottom:2px solid #222}td,th{min-width:4rem}code{background:#f4f4f4;padding:0 .2em}li{max-width:60rem}
blockquote{border-left:3px solid #ccc;margin-left:0;padding-left:1rem;color:#555}"""


def page(
    markdown: Annotated[Path, typer.Option(help="the table, as the pipeline writes it")],
    output: Annotated[Path, typer.Option(help="HTML page")],
) -> None:
    from markdown_it import MarkdownIt

    from pruning.core import artifacts

    body = MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown.read_text(encoding="utf-8"))
    with artifacts.atomic(output) as temporary:
        temporary.write_text(
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{markdown.stem}</title>'
            f"<style>{STYLE}</style>{body}</html>\n",
            encoding="utf-8",
        )


if __name__ == "__main__":
    cli.run(page)
