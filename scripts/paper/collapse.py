"""Where each method collapses: the sparsity at which accuracy has fallen halfway from the dense model's to chance.

Settings (JSON): `models`, `calib`, `methods`, `sparsities` (whole per cent); `task`,
`metric` and `title` of the task; `chance`, the accuracy of guessing, as a fraction; `reference`, the method that the
others' points are compared with; `confidence` of the intervals; `resamples` and `seed` of the bootstrap.

Writes collapse.csv, one row per model, calibration and method (NaN: beyond the largest measured sparsity, see
pruning/paper/collapse.py) with the difference from the reference's point and its tests; and accuracy.csv, the
accuracies that the fits go through, the dense one as sparsity 0; sparsities and accuracies are fractions in both.
"""

from pathlib import Path
from typing import Annotated

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

    from pruning.analysis import comparison
    from pruning.core import artifacts, names
    from pruning.core.names import DENSE, Variant
    from pruning.paper import collapse as fits

    task, metric, sparsities = settings["task"], settings["metric"], sorted(settings["sparsities"])
    if settings["reference"] not in settings["methods"]:
        raise cli.InputError(f"collapse: reference {settings['reference']!r} is not among {settings['methods']}")

    def outcomes(model: str, variant: Variant) -> pd.DataFrame:
        frame = artifacts.read_parquet(Path(samples.format(model=model, variant=variant, task=task)), "samples")
        return comparison.outcomes_of(frame, f"{model}/{variant}", task, metric, "accuracy")

    points, accuracies, calib = [], [], settings["calib"]
    for model in settings["models"]:
        dense, found, rows = outcomes(model, DENSE), {}, {}
        for method in settings["methods"]:
            variants = [Variant(calib, method, sparsity) for sparsity in sparsities]
            measured = {DENSE: dense, **{variant: outcomes(model, variant) for variant in variants}}
            comparison.same_items({f"{model}/{variant}": own for variant, own in measured.items()}, task)
            row = {"model": model, "calib": calib, "method": method}
            shared = {"task": task, "metric": metric, "n": len(dense)}
            for variant, own in measured.items():
                value = comparison.measure(own, "accuracy", settings)
                value = {name: value[name] for name in ("value", "ci_low", "ci_high")}
                accuracies.append({**row, "sparsity": names.share(variant.sparsity), **shared, **value})
            values = np.stack([own["value"] for own in measured.values()])
            fractions, clusters = names.share(np.array(sparsities)), comparison.clusters_of(dense)
            level = (settings[key] for key in ("chance", "confidence", "resamples", "seed"))
            try:
                fit = fits.collapse(values[1:], values[0], fractions, *level, clusters)
            except ValueError as error:
                raise cli.InputError(f"collapse: {model}, {calib}, {method}: {error}") from None
            number = None if clusters is None else clusters.nunique()
            row |= {**shared, "clusters": number, "dense": values[0].mean(), "chance": settings["chance"]}
            row |= {"collapse": fit.point, "ci_low": fit.low, "ci_high": fit.high, "width": fit.width}
            found[method], rows[method] = fit, {**row, "censored": fit.censored}
        points += fits.compared(rows, found, settings["reference"], settings["confidence"])
    points, accuracies = pd.DataFrame(points).astype({"clusters": "Int64"}), pd.DataFrame(accuracies)
    for path, frame in ((output_collapse, points), (output_accuracy, accuracies)):
        artifacts.write_csv(path, frame, settings)
    shown = ["model", "calib", "method", "collapse", "ci_low", "ci_high", "delta", "p_holm"]
    print(points[shown].to_string(index=False))


if __name__ == "__main__":
    cli.run(collapse)
