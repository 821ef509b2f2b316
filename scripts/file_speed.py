"""How fast one GGUF file is in llama.cpp, in turn with the dense model's (analysis/file_speed.py): a JSON."""

from pathlib import Path
from typing import Annotated

import typer

from pruning.core import cli


def file_speed(
    settings: cli.Settings,
    dense: Annotated[Path, typer.Option(help="GGUF file of the dense model; its record lies beside it")],
    other: Annotated[Path, typer.Option(help="the file to be timed")],
    output: cli.Output,
    threads: int = 1,
) -> None:
    from pruning.analysis import file_speed
    from pruning.core import artifacts, chain

    cli.phase("start-up")
    for file in (dense, other):
        chain.check_files(
            file.parent, file.with_suffix(".json"), artifacts.read_json(file.with_suffix(".json"), "gguf")
        )
    found = file_speed.of_files(dense, other, {**settings, "threads": threads})
    asked = {key: settings[key] for key in ("prompt_tokens", "decode_tokens", "rounds")}
    artifacts.write_json(output, {**found, "threads": threads, **asked}, "file_speed", settings)
    print(*(f"{key}: {value}" for key, value in found.items()), sep="\n")


if __name__ == "__main__":
    cli.run(file_speed)
