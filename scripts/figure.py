"""One figure from the tables of the analyses, as SVG and PNG (200 dpi), in the figures' style.

Settings (JSON): `methods` and `models`, in the order of drawing, and the figure's own keys;
its maker, a module of pruning/, says which, and which tables it takes. Equal tables and settings make equal bytes.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from pruning.core import cli


def figure(
    settings: cli.Settings,
    maker: Annotated[str, typer.Option(help="module of scripts/pruning/, as report/figures/widths")],
    file: Annotated[list[str], typer.Option(metavar="NAME=PATH", help="CSV or parquet; those of one name are joined")],
    output_svg: Annotated[Path, typer.Option(help="SVG to write")],
    output_png: Annotated[Path, typer.Option(help="PNG to write")],
) -> None:
    import importlib

    from pruning.core import artifacts
    from pruning.report.figures import style
    from pruning.report.files import Files, plug_in

    folder, _, name = maker.rpartition("/")
    with plug_in(maker):
        if folder == "paper/figures":
            module = importlib.import_module(f"pruning.paper.figures.{name}")
        else:
            module = importlib.import_module(f"pruning.report.figures.{name}")
    tables = read(Files(file))
    with style.figure_style():
        made = module.draw(tables, settings)
        for path, kind, metadata in ((output_svg, "svg", {"Date": None}), (output_png, "png", {"Software": None})):
            with artifacts.atomic(path) as temporary:
                made.savefig(temporary, format=kind, metadata=metadata)


def read(files) -> dict[str, Any]:
    """Data frames by name. Raises InputError naming the file at fault."""
    import pandas as pd

    from pruning.core import artifacts

    def read_one(name: str, path: Path) -> pd.DataFrame:
        if name == "published":  # the paper's numbers are no result
            return pd.read_csv(path)
        if path.suffix != ".parquet":
            return artifacts.read_csv(path)
        # What the stage `trap` says of each neuron, with the model and calibration of its provenance.
        frame, settings = artifacts.read_parquet(path, "trap"), artifacts.read_provenance(path)["settings"]
        return frame.assign(model=settings["model"], calib=settings["calib"])

    return {
        name: pd.concat([read_one(name, path) for path in files.all(name)], ignore_index=True) for name in files.named
    }


if __name__ == "__main__":
    cli.run(figure)
