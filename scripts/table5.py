"""Table 5: what the dense and the pruned models write for the same prompts, side by side.

Settings (JSON): `models`, `calib`, `sparsity` (whole per cent), `methods` in the order of the rows, `dense`, the
unpruned model, among them; `excerpt`, the number of characters shown of each text (the CSV has the whole texts). A
`--cases`, METHOD=PATH of a cases.json, for each model and method, in this order.
"""

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from pruning.analysis.cases import table5_rows, to_markdown, to_tex
from pruning.core import artifacts, cli


def table5(
    settings: cli.Settings,
    cases: Annotated[
        list[str], typer.Option(metavar="METHOD=PATH", help="cases.json, model by model and method by method; repeat")
    ],
    output_md: Annotated[Path, typer.Option(help="table to read, in Markdown")],
    output_csv: Annotated[Path, typer.Option(help="tidy table to write")],
    output_tex: Annotated[Path, typer.Option(help="table to read, in LaTeX")],
) -> None:
    wanted = [(model, method) for model in settings["models"] for method in settings["methods"]]
    paths = [named.partition("=") for named in cases]
    if [path[0] for path in paths] != [method for _, method in wanted]:
        raise cli.InputError(f"--cases: expected one for each of {wanted}, in this order, got {cases}")
    read: dict[str, dict] = {model: {} for model in settings["models"]}
    for (model, method), (_, _, path) in zip(wanted, paths, strict=True):
        read[model][method] = artifacts.read_json(Path(path), "cases")["cases"]
    frame = pd.concat([table5_rows(model, of, settings) for model, of in read.items()], ignore_index=True)
    csv = frame.drop(columns="prompt").to_csv(index=False, float_format="%.6g", lineterminator="\n")
    for path, text in (
        (output_csv, csv),
        (output_md, to_markdown(frame, settings)),
        (output_tex, to_tex(frame, settings)),
    ):
        with artifacts.atomic(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    cli.run(table5)
