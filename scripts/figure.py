"""One figure from the tables of the analyses, as SVG and PNG (200 dpi), in the house style.

Settings (JSON): `methods` and `models`, in the order of drawing, and the figure's own keys; pruning/figures/NAME.py
says which, and which tables it takes. Equal tables and settings make equal bytes.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from pruning.core import cli


def figure(
    settings: cli.Settings,
    figure: Annotated[str, typer.Option(help="name of the module in pruning/figures")],
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
    with style.house():
        made = importlib.import_module(f"pruning.report.figures.{figure}").draw(tables, settings)
        for path, kind, metadata in ((output_svg, "svg", {"Date": None}), (output_png, "png", {"Software": None})):
            with artifacts.atomic(path) as temporary:
                made.savefig(temporary, format=kind, metadata=metadata)


def read(files) -> dict[str, Any]:
    """Data frames by name. Raises InputError naming the file at fault."""
    import pandas as pd

    tables = {}
    for name, path in ((named, str(path)) for named in files.named for path in files.all(named)):
        try:
            frame = read_parquet(path) if path.endswith(".parquet") else pd.read_csv(path)
        except FileNotFoundError:
            raise cli.InputError(f"{path}: no such file; run snakemake to make it") from None
        except (ValueError, OSError) as error:  # pandas' and pyarrow's errors are these
            reason = str(error).splitlines()[0]
            raise cli.InputError(f"{path}: not a table ({reason}); delete it and run again") from None
        tables.setdefault(name, []).append(frame)
    return {name: pd.concat(frames, ignore_index=True) for name, frames in tables.items()}


def read_parquet(path: str) -> Any:
    """A parquet file of any kind, with the model and calibration of its provenance where it has no such columns."""
    import pyarrow.parquet as pq

    table = pq.read_table(path, partitioning=None)
    settings = json.loads((table.schema.metadata or {}).get(b"provenance", b"{}")).get("settings", {})
    names = {name: settings[name] for name in ("model", "calib") if name in settings}
    frame = table.to_pandas()
    return frame.assign(**{name: value for name, value in names.items() if name not in frame})


if __name__ == "__main__":
    cli.run(figure)
