"""Write what is made from the code: the configuration's JSON schema, and pages of the reference (`make config`)."""

from pathlib import Path
from typing import Annotated

import typer

from pruning.core import artifacts, cli


def write_config(
    root: Annotated[Path, typer.Argument(help="of the repository")] = Path(),
    check: Annotated[bool, typer.Option(help="write nothing; an error where a file is not up to date")] = False,
) -> None:
    from pruning.command import reference

    for name, text in reference.files().items():
        path = root / name
        if check and (not path.is_file() or path.read_text(encoding="utf-8") != text):
            raise cli.InputError(f"{path} is not what `make config` writes: run it")
        if not check:
            with artifacts.atomic(path) as temporary:
                temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    cli.run(write_config)
