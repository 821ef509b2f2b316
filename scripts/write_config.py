"""Write what is made from the configuration: its JSON schema, and README's list of results (`make config`)."""

import json
import re
from pathlib import Path
from typing import Annotated

import typer

from pruning.core import artifacts, cli

LIST = re.compile(r"(?<=<!-- make config -->\n).*?(?=<!-- -->\n)", re.S)


def write_config(
    root: Annotated[Path, typer.Argument(help="of the repository")] = Path(),
    check: Annotated[bool, typer.Option(help="write nothing; an error where a file is not up to date")] = False,
) -> None:
    from pruning.config.schema import Config

    texts = {
        root / "config/schema.json": json.dumps(Config.model_json_schema(), indent=2) + "\n",
        root / "README.md": LIST.sub(lambda _: results(), (root / "README.md").read_text(encoding="utf-8")),
    }
    for path, text in texts.items():
        if check and path.read_text(encoding="utf-8") != text:
            raise cli.InputError(f"{path} is not what `make config` writes: run it")
        if not check:
            with artifacts.atomic(path) as temporary:
                temporary.write_text(text, encoding="utf-8")


def results() -> str:
    """The default's tables and figures, with their captions, as a Markdown table."""
    from pruning.config.default import DEFAULT
    from pruning.paper import catalogue as paper
    from pruning.report import catalogue

    entries = {**catalogue.tables(DEFAULT), **paper.tables(DEFAULT), "costs": catalogue.costs(())}
    drawn = {**catalogue.figures(DEFAULT), **paper.figures(DEFAULT)}
    lines = {f"`{name}`": entry.caption for name, entry in sorted(entries.items())}
    lines |= {f"`figures/{name}`": entry.caption for name, entry in sorted(drawn.items())}
    rows = [f"| {name} | {caption} |" for name, caption in lines.items()]
    return "\n".join(["| file in `results/` | what |", "|---|---|", *rows, ""])


if __name__ == "__main__":
    cli.run(write_config)
