"""Merge calibration shards: statistics add up exactly."""

from pathlib import Path

from pruning.core import cli


def merge_calibration(settings: cli.Settings, shard: list[Path], output: Path) -> None:
    """shard: the directories of all shards. output: directory for the merged files."""
    from pruning.calibration import columns
    from pruning.core import artifacts

    for name, keys in columns.SHARDED.items():
        frames = (artifacts.read_parquet(folder / f"{name}.parquet", name) for folder in shard)
        artifacts.write_parquet(output / f"{name}.parquet", columns.merge(frames, keys), name, settings)


if __name__ == "__main__":
    cli.run(merge_calibration)
