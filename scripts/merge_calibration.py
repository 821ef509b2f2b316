"""Merge calibration shards: statistics add up exactly, sampled activations are put in order."""

from pathlib import Path
from typing import Annotated

import typer

from pruning.core import cli


def merge_calibration(
    settings: cli.Settings,
    shards: Annotated[list[Path], typer.Option("--shard", help="a shard's directory; repeat")],
    output: Annotated[Path, typer.Option(help="directory for the merged files")],
) -> None:
    import pyarrow as pa

    from pruning.calibration import columns
    from pruning.core import artifacts

    cli.phase("start-up")
    for name, keys in columns.KEYS.items():
        frames = (artifacts.read_parquet(shard / f"{name}.parquet", name) for shard in shards)
        artifacts.write_parquet(output / f"{name}.parquet", columns.merge(frames, keys), name, settings)
    tables = [artifacts.read_table(shard / "activations.parquet", "activations") for shard in shards]
    tables = [table.replace_schema_metadata(None) for table in tables]
    activations = pa.concat_tables(tables).sort_by([("sample", "ascending"), ("position", "ascending")])
    # The setting may be null, for "the last but one"; the shards know the number.
    analysed = artifacts.read_provenance(shards[0] / "activations.parquet")["settings"]["analysed_layer"]
    origin = {**settings, "analysed_layer": analysed}
    artifacts.write_parquet(output / "activations.parquet", activations, "activations", origin)


if __name__ == "__main__":
    cli.run(merge_calibration)
