"""Mask overlap of two methods: model, calib, first, second, sparsity, layer, iou, and the IoU that chance gives."""

from pathlib import Path
from typing import Annotated

import typer

from pruning.core import cli


def overlap(
    settings: cli.Settings,
    first: Annotated[list[Path], typer.Option(help="masks of one method; repeat")],
    second: Annotated[list[Path], typer.Option(help="masks of the other, in the same order")],
    output: Annotated[Path, typer.Option(help="CSV")],
) -> None:
    """Settings: the names `model`, `calib`, `first` and `second`, for the rows."""
    import pandas as pd

    from pruning.analysis.overlap import expected_iou, iou
    from pruning.core import artifacts, names
    from pruning.methods import masks

    rows = []
    for path_a, path_b in zip(first, second, strict=True):
        pairs = masks.rows(path_a, "mask").merge(
            masks.rows(path_b, "mask"), on=["layer", "unit"], validate="one_to_one"
        )
        for layer, rows_of in pairs.groupby("layer"):
            a, b = rows_of["keep_x"].to_numpy(), rows_of["keep_y"].to_numpy()
            chance = expected_iou(a.mean(), b.mean())
            rows.append(
                {
                    **settings,
                    "sparsity": names.share(int(path_a.stem)),
                    "layer": layer,
                    "iou": iou(a, b),
                    "chance": chance,
                }
            )
    frame = pd.DataFrame(rows)
    artifacts.write_csv(output, frame, settings)
    print(frame.groupby("sparsity")[["iou", "chance"]].mean().to_string())


if __name__ == "__main__":
    cli.run(overlap)
