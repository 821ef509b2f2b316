"""Figure 2: do magnitude methods keep neurons of large activation and small gradient, and whose tokens are these?

Settings (JSON): `model`, `calib`, `sparsity` (whole per cent); `high` and `low`, the quantiles within a layer that make
a neuron's activation and gradient large and small; `objective`, whose gradient that is; `confidence` of the intervals;
`layer` (null: the last but one). Each `--masks` is METHOD=PATH.

Writes neurons.parquet (one row per neuron: layer, unit, activation, gradient, region, keep_<method>), regions.csv (what
each method keeps of each region) and classes.csv (the classes of tokens that regions' activations come from).
"""

from pathlib import Path
from typing import Annotated

import typer

from pruning.core import cli


def trap(
    settings: cli.Settings,
    statistics: Annotated[Path, typer.Option(help="statistics.parquet of the calibration")],
    token_classes: Annotated[Path, typer.Option(help="its token_classes.parquet")],
    masks: Annotated[list[str], typer.Option(metavar="METHOD=PATH", help="a method's mask at the sparsity; repeat")],
    output_neurons: Annotated[Path, typer.Option(help="neurons.parquet")],
    output_regions: Annotated[Path, typer.Option(help="regions.csv")],
    output_classes: Annotated[Path, typer.Option(help="classes.csv")],
) -> None:
    from pruning.core import artifacts, names
    from pruning.core.layer import chosen
    from pruning.methods.masks import rows as rows_of
    from pruning.paper import trap as analysis

    cli.phase("start-up")
    high, low = settings["high"], settings["low"]
    if not 0 < low < high < 1:
        raise cli.InputError(f"high: {high}, low: {low}: quantiles must be 0 < low < high < 1; 0.75 and 0.25 are usual")
    frame = analysis.neurons(artifacts.read_parquet(statistics, "statistics"), high, low, settings["objective"])
    layers = frame["layer"].nunique()
    analysed = chosen(settings["layer"], layers)
    paths = cli.paths(masks)
    read = {method: rows_of(path, "mask") for method, path in paths.items()}
    per_class = artifacts.read_parquet(token_classes, "token_classes")
    try:
        frame = analysis.with_masks(frame, read)
        classes = analysis.class_rows(per_class, frame, analysed)
    except ValueError as error:
        raise cli.InputError(f"{statistics}: {error}; delete what is stale and run again") from None
    regions = analysis.region_rows(frame, list(paths), settings["confidence"])
    regions.insert(1, "sparsity", names.share(settings["sparsity"]))
    columns = ["layer", "unit", "activation", "gradient", "region", *(f"keep_{method}" for method in paths)]
    artifacts.write_parquet(output_neurons, frame[columns], "trap", settings)
    for path, rows in ((output_regions, regions), (output_classes, classes)):
        rows.insert(0, "model", settings["model"])
        rows.insert(1, "calib", settings["calib"])
        artifacts.write_csv(path, rows, settings)
    pooled = regions[regions["layer"] == "all"]
    print(pooled[["method", "region", "neurons", "expected", "kept_share", "layer_kept_share"]].to_string(index=False))


if __name__ == "__main__":
    cli.run(trap)
