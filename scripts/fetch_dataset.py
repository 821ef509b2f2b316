"""Fetch one split of a dataset, once: results/data/{dataset}/{split}.parquet, so that no other job needs internet."""

from pathlib import Path

from pruning.core import cli


def fetch_dataset(settings: cli.Settings, split: str, output: Path) -> None:
    from pruning.core import artifacts, chain, hub
    from pruning.data import datasets

    if settings["kind"] == "generated":
        origin, records = f"generated {split}", datasets.generated(settings, split)
    elif settings["kind"] == "local":
        path = Path(settings["path"])
        chain.read_source(path)
        origin, records = str(path), datasets.read_jsonl(path)[slice(*settings.get("part", [None]))]
    else:
        origin = f"{settings['repo']} {split}"
        wanted = [settings[key] for key in ("repo", "name", "revision", "split", "data_files")]
        with hub.fetching(output):
            records = datasets.from_hub(*wanted)
    records = datasets.adapt(records, settings["adapter"], settings["fields"], origin)
    artifacts.write_parquet(output, datasets.table(records, origin), "dataset", settings)
    print(f"{len(records)} records from {origin}")


if __name__ == "__main__":
    cli.run(fetch_dataset)
