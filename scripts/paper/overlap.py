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

    from pruning.core import artifacts, names
    from pruning.methods import masks
    from pruning.paper.overlap import expected_iou, iou

    rows = []
    for paths in zip(first, second, strict=True):
        a, b = (masks.rows(path, "mask") for path in paths)
        for layer, both in a.merge(b, on=["layer", "unit"], validate="one_to_one").groupby("layer"):
            keep = both["keep_x"].to_numpy(), both["keep_y"].to_numpy()
            row = {**settings, "sparsity": names.share(int(paths[0].stem)), "layer": layer, "iou": iou(*keep)}
            rows.append(row | {"chance": expected_iou(keep[0].mean(), keep[1].mean())})
    frame = pd.DataFrame(rows)
    artifacts.write_csv(output, frame, settings)
    print(frame.groupby("sparsity")[["iou", "chance"]].mean().to_string())


if __name__ == "__main__":
    cli.run(overlap)
