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
    from pruning.core import artifacts
    from pruning.paper.collapse import of_results

    points, accuracies = of_results(settings, samples)
    for path, frame in ((output_collapse, points), (output_accuracy, accuracies)):
        artifacts.write_csv(path, frame, settings)
    shown = ["model", "calib", "method", "collapse", "ci_low", "ci_high", "delta", "p_holm"]
    print(points[shown].to_string(index=False))


if __name__ == "__main__":
    cli.run(collapse)
