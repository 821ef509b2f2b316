"""Write config/config.yaml and config/schema.json from the pydantic models (`make config`)."""

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


def write_config(directory: Annotated[Path, typer.Argument()] = Path("config")) -> None:
    from pruning.config.default import DEFAULT
    from pruning.config.write import commented_yaml, schema

    for name, text in (("config.yaml", HEADER + commented_yaml(DEFAULT)), ("schema.json", schema())):
        with artifacts.atomic(directory / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    cli.run(write_config)
