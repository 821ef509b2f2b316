"""Leakage of a table: source, task, items, identical, overlapping, n (see data/leakage.py)."""

from pathlib import Path

from pruning.core import cli


def leakage(settings: cli.Settings, output: Path) -> None:
    """Settings: `sources` (alias of a calibration or tuning -> parquet); `tasks` (task -> {`path`, `first`, `limit`} of
    its items); `n`."""
    import pandas as pd

    from pruning.core import artifacts
    from pruning.data.leakage import overlap, text_of

    def texts(path: str) -> list[str]:
        return [text_of(record) for record in artifacts.read_table(Path(path), "dataset").to_pylist()]

    rows, n = [], settings["n"]
    tasks = {name: texts(task["path"])[task["first"] :][: task["limit"]] for name, task in settings["tasks"].items()}
    for source, path in settings["sources"].items():
        text = texts(path)
        for task, items in tasks.items():
            identical, overlapping = overlap(text, items, n)
            row = {"source": source, "task": task, "items": len(items), "identical": identical}
            rows.append({**row, "overlapping": overlapping, "n": n})
    artifacts.write_csv(output, pd.DataFrame(rows), settings)


if __name__ == "__main__":
    cli.run(leakage)
