"""Merge calibration shards: statistics add up exactly."""

from pathlib import Path
from typing import Annotated

import typer

from pruning.core import cli


def merge_calibration(
    settings: cli.Settings,
    shards: Annotated[list[Path], typer.Option("--shard", help="a shard's directory; repeat")],
    output: Annotated[Path, typer.Option(help="directory for the merged files")],
) -> None:
    from pruning.calibration import columns
    from pruning.core import artifacts

    cli.phase("start-up")
    for name, keys in columns.SHARDED.items():
        frames = (artifacts.read_parquet(shard / f"{name}.parquet", name) for shard in shards)
        artifacts.write_parquet(output / f"{name}.parquet", columns.merge(frames, keys), name, settings)


if __name__ == "__main__":
    cli.run(merge_calibration)
