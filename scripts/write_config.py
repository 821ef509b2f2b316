"""Write what is made from models and catalogue: config.yaml, schema.json, README's list of results (`make config`)."""

import re
from pathlib import Path
from typing import Annotated

import typer

from pruning.core import artifacts, cli

HEADER = """\
# The embedded default. Written by `make config` from scripts/pruning/config/default.py: edit that, not this.
# A YAML of your own holds only what differs and is stacked on top:
#   snakemake --cores 8 results/table1.csv --configfile config/smollm2-135m.yaml
# yaml-language-server: $schema=schema.json

"""
LIST = re.compile(r"(?<=<!-- make config -->\n).*?(?=<!-- -->\n)", re.S)


def write_config(
    root: Annotated[Path, typer.Argument(help="of the repository")] = Path(),
    check: Annotated[bool, typer.Option(help="write nothing; an error where a file is not up to date")] = False,
) -> None:
    from pruning.config.default import DEFAULT
    from pruning.config.write import commented_yaml, schema

    texts = {
        root / "config/config.yaml": HEADER + commented_yaml(DEFAULT),
        root / "config/schema.json": schema(),
        root / "README.md": LIST.sub(lambda _: listed(DEFAULT), (root / "README.md").read_text(encoding="utf-8")),
    }
    for path, text in texts.items():
        if check and path.read_text(encoding="utf-8") != text:
            raise cli.InputError(f"{path} is not what `make config` writes: run it")
        if not check:
            with artifacts.atomic(path) as temporary:
                temporary.write_text(text, encoding="utf-8")


def listed(config) -> str:
    """The default's tables and figures, with their captions, as a Markdown table."""
    from pruning.report import catalogue

    entries = {**catalogue.tables(config), "costs": catalogue.costs(config)}
    lines = {f"`{name}`": entry.caption for name, entry in sorted(entries.items())}
    lines |= {f"`figures/{name}`": entry.caption for name, entry in sorted(catalogue.figures(config).items())}
    rows = [f"| {name} | {caption} |" for name, caption in lines.items()]
    return "\n".join(["| file in `results/` | what |", "|---|---|", *rows, ""])


if __name__ == "__main__":
    cli.run(write_config)
