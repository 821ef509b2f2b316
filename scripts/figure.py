"""One figure from the tables of the analyses, as SVG and PNG (200 dpi), in the figures' style.

Settings (JSON): `methods` and `models`, in the order of drawing, and the figure's own keys;
pruning/report/figures/NAME.py says which, and which tables it takes. Equal tables and settings make equal bytes.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from pruning.core import cli


def figure(
    settings: cli.Settings,
    figure: Annotated[str, typer.Option(help="name of the module in pruning/report/figures")],
    file: Annotated[list[str], typer.Option(metavar="NAME=PATH", help="CSV or parquet; those of one name are joined")],
    output_svg: Annotated[Path, typer.Option(help="SVG to write")],
    output_png: Annotated[Path, typer.Option(help="PNG to write")],
) -> None:
    import importlib
    import pkgutil

    from pruning.core import artifacts
    from pruning.report import figures
    from pruning.report.figures import style
    from pruning.report.files import Files

    names = sorted({module.name for module in pkgutil.iter_modules(figures.__path__)} - {"style"})
    if figure not in names:
        raise cli.InputError(f"--figure {figure}: no such figure; there are {', '.join(names)}")
    tables = read(Files(file))
    with style.figure_style():
        made = importlib.import_module(f"pruning.report.figures.{figure}").draw(tables, settings)
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
