"""Where each method collapses: the sparsity at which accuracy has fallen halfway from the dense model's to chance.

Settings (JSON): `models`: alias -> {`calibrations`: [alias, ...]}; `methods`, `sparsities` (whole per cent); `task`,
`metric` and `title` of the task; `chance`, the accuracy of guessing, as a fraction; `reference`, the method that the
others' points are compared with; `confidence` of the intervals; `resamples` and `seed` of the bootstrap. Reads the
samples of evaluation below `--results`.

Writes collapse.csv, one row a model, calibration and method (NaN: beyond the largest measured sparsity, see
pruning/collapse.py) with the difference from the reference's point and its tests, and accuracy.csv, the accuracies that
the fits go through, the dense one as sparsity 0, both with sparsities and accuracies as fractions; and a table to read.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from pruning.core import cli


def collapse(
    settings: cli.Settings,
    samples: Annotated[str, typer.Option(help="template of the outcomes' path: {model}, {variant}, {task}")],
    output_collapse: Annotated[Path, typer.Option(help="collapse.csv")],
    output_accuracy: Annotated[Path, typer.Option(help="accuracy.csv")],
) -> None:
    import numpy as np
    import pandas as pd

    from pruning.analysis import collapse as fits
    from pruning.analysis import comparison
    from pruning.core import artifacts
    from pruning.core.names import DENSE, Variant
    from pruning.core.significance import wilson

    task, metric, confidence = settings["task"], settings["metric"], settings["confidence"]
    sparsities = sorted(settings["sparsities"])
    points, accuracies = [], []
    if settings["reference"] not in settings["methods"]:
        raise cli.InputError(f"collapse: reference {settings['reference']!r} is not among {settings['methods']}")
    for model, entry in settings["models"].items():

        def of(variant: Variant, model: str = model) -> pd.DataFrame:
            return outcomes(Path(samples.format(model=model, variant=variant, task=task)), metric)

        dense = of(DENSE)
        for calib in entry["calibrations"]:
            found, rows = {}, {}
            for method in settings["methods"]:
                variants = [Variant(calib, method, sparsity) for sparsity in sparsities]
                pruned = [of(variant) for variant in variants]
                named = {f"{model}/{v}": own for v, own in zip([DENSE, *variants], [dense, *pruned], strict=True)}
                comparison.same_items(named, task)
                values = np.stack([own["value"] for own in named.values()])
                row = {"model": model, "calib": calib, "method": method}
                measured = {"task": task, "metric": metric, "n": len(dense)}
                for sparsity, correct in zip([0, *sparsities], values.sum(1).astype(int), strict=True):
                    low, high = wilson(correct, len(dense), confidence)
                    value = {"value": correct / len(dense), "ci_low": low, "ci_high": high}
                    accuracies.append({**row, "sparsity": sparsity / 100, **measured, **value})
                clusters = comparison.clusters_of(dense)
                try:
                    found[method] = fits.collapse(
                        values[1:],
                        values[0],
                        np.array(sparsities) / 100,
                        settings["chance"],
                        confidence,
                        settings["resamples"],
                        settings["seed"],
                        clusters,
                    )
                except ValueError as error:
                    raise cli.InputError(f"collapse: {model}, {calib}, {method}: {error}") from None
                rows[method] = {
                    **row,
                    **measured,
                    "clusters": None if clusters is None else clusters.nunique(),
                    "dense": values[0].mean(),
                    "chance": settings["chance"],
                    "collapse": found[method].point,
                    "ci_low": found[method].low,
                    "ci_high": found[method].high,
                    "width": found[method].width,
                    "censored": found[method].censored,
                }
            points += fits.compared(rows, found, settings["reference"], confidence)
    points, accuracies = pd.DataFrame(points).astype({"clusters": "Int64"}), pd.DataFrame(accuracies)
    for path, frame in ((output_collapse, points), (output_accuracy, accuracies)):
        artifacts.write_csv(path, frame, settings)
    print(
        points[["model", "calib", "method", "collapse", "ci_low", "ci_high", "delta", "p_holm"]].to_string(index=False)
    )


def outcomes(path: Path, metric: str) -> Any:
    """A metric's samples in the order of the items. Raises InputError if there are none, or it is no accuracy."""
    from pruning.core import artifacts

    samples = artifacts.read_parquet(path, "samples")
    chosen = samples[samples["metric"] == metric].sort_values("item", ignore_index=True)
    if chosen.empty:
        raise cli.InputError(f"collapse.metric: {path} has no {metric!r}, only {sorted(samples['metric'].unique())}")
    if not chosen["value"].isin([0, 1]).all():
        raise cli.InputError(f"collapse.metric: {metric!r} in {path} is not 0 or 1 an item; choose an accuracy")
    return chosen


if __name__ == "__main__":
    cli.run(collapse)
