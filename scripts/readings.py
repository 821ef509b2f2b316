"""Readings: which way of computing RKU, AGF and Taylor-FO fits the numbers that the paper prints?"""

from pathlib import Path
from typing import Annotated

import typer

from pruning.core import cli


def readings(
    settings: cli.Settings,
    output_csv: Annotated[Path, typer.Option(help="tidy table to write")],
    output_md: Annotated[Path, typer.Option(help="table to read, in Markdown")],
    output_tex: Annotated[Path, typer.Option(help="table to read, in LaTeX")],
    published: Annotated[Path, typer.Option(help="directory of the paper's tables")] = Path("resources/paper"),
    results: Annotated[Path, typer.Option(help="directory of the pipeline's results")] = Path("results"),
) -> None:
    """Settings: `models`, `calib`; `rows`, reading -> its `title`, its methods (`rku`, `agf`, `taylor`, `wanda`) and
    the `objective` of its rku; `sparsities` (whole per cent) and `layer` (null: the last but one) of the overlaps;
    `sparsity` of the masks whose trap and spikes are counted, with the quantiles `high` and `low` and the `confidence`
    of intervals."""
    import pandas as pd

    from pruning.analysis import readings, trap
    from pruning.core import artifacts
    from pruning.report import printing

    cli.phase("start-up")
    raw = {name: pd.read_csv(published / f"{name}.csv") for name in ("table1", "table4", "table6", "table7")}
    paper = raw | {name: readings.gaps(raw[name], settings["sparsities"]) for name in ("table6", "table7")}
    lines = readings.published_lines(raw["table4"])
    calib, sparsity = settings["calib"], settings["sparsity"]

    def curve(model: str, first: str, second: str) -> pd.DataFrame:
        overlap = pd.read_csv(results / model / "analysis/overlap" / calib / first / f"{second}.csv")
        return readings.curve(overlap[overlap["sparsity"].isin(settings["sparsities"])], settings["layer"])

    def keep(model: str, method: str, layer: int):
        mask = artifacts.read_parquet(results / model / "masks" / calib / method / f"{sparsity}.parquet", "mask")
        return mask[mask["layer"] == layer].sort_values("neuron")["keep"].to_numpy()

    tables, blocks = [], []
    for model in settings["models"]:
        statistics = artifacts.read_parquet(
            results / model / "calibration" / calib / "statistics.parquet", "statistics"
        )
        layer = statistics["layer"].max() - 1 if settings["layer"] is None else settings["layer"]
        of_layer, rows = statistics[statistics["layer"] == layer], []
        for name, reading in settings["rows"].items():
            curves = {role: curve(model, reading["rku"], reading[role]) for role in ("agf", "taylor", "wanda")}
            neurons = trap.neurons(of_layer, settings["high"], settings["low"], reading["objective"])
            masks = {role: keep(model, reading[role], layer) for role in ("rku", "wanda")}
            kept = readings.kept_shares(neurons["region"].to_numpy(), masks)
            named = {"model": model, "calib": calib, "reading": name, "chosen": readings.is_chosen(reading)}
            named |= {role: reading[role] for role in readings.ROLES} | {"layer": layer}
            rows.append(named | readings.row(curves, kept, lines, paper["table6"], settings["confidence"]))
        tables.append(pd.DataFrame(rows))
        blocks += readings.blocks(model, tables[-1], paper, settings)
    csv = pd.concat(tables, ignore_index=True).to_csv(index=False, float_format="%.6g", lineterminator="\n")
    title = "Readings: how the paper's methods may have been computed, judged by its own numbers"
    printing.write("readings", title, blocks, csv, (output_csv, output_md, output_tex))


if __name__ == "__main__":
    cli.run(readings)
