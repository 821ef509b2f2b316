"""Figure 1: spectra of what each method's kept neurons of one layer carry, of the dense model's activations.

Settings (JSON): `model`, `calib`, `sparsity` (whole per cent), `draws` and `seed` of the random neurons. Each
`--scores` and `--masks` is METHOD=PATH, of the same methods. The layer is the one whose activations were kept.

Two comparisons, told apart by `width_rule`: `own`, the neurons that the method's mask keeps (`dense`: all), whose
number differs under global allocation; and `equal`, each method's best-scored neurons of the layer, as many as
uniform allocation keeps (`dense`: the mean over `draws` random choices of as many, what chance gives).

Writes the spectrum (one row per method, width rule and index) and a summary (one row per method and width rule).
"""

from pathlib import Path
from typing import Annotated

import typer

from pruning.core import cli


def spectrum(
    settings: cli.Settings,
    activations: Annotated[Path, typer.Option(help="activations.parquet of the calibration")],
    scores: Annotated[list[str], typer.Option(metavar="METHOD=PATH", help="scores of a method; repeat")],
    masks: Annotated[list[str], typer.Option(metavar="METHOD=PATH", help="its mask at the sparsity; repeat")],
    output_spectrum: Annotated[Path, typer.Option(help="CSV of the singular values")],
    output_summary: Annotated[Path, typer.Option(help="CSV of the ranks")],
    threads: int = 1,
) -> None:
    import numpy as np
    import pandas as pd

    from pruning.core import artifacts, names
    from pruning.methods import allocation
    from pruning.methods.masks import rows as rows_of
    from pruning.paper.spectrum import measure, random_choices

    cli.phase("start-up")
    score_paths, mask_paths = cli.paths(scores), cli.paths(masks)
    if set(score_paths) != set(mask_paths):
        raise cli.InputError(
            f"--scores of methods {sorted(score_paths)}, but --masks of {sorted(mask_paths)}; give both of each"
        )
    a = artifacts.read_table(activations, "activations")["activation"]
    layer = artifacts.read_provenance(activations)["settings"].get("layer")
    if layer is None:
        raise cli.InputError(f"{activations}: does not say of which layer it is; delete it and run again")
    if len(a) == 0:
        raise cli.InputError(f"{activations}: holds no token; raise `spectrum.tokens`")
    a = a.combine_chunks().flatten().to_numpy().reshape(len(a), -1).astype(np.float64)
    tokens, neurons = a.shape
    width = allocation.kept(neurons, settings["sparsity"])

    def of_layer(path: Path, kind: str) -> np.ndarray:
        frame = rows_of(path, kind)
        column = frame.loc[frame["layer"] == layer, "keep" if kind == "mask" else "score"].to_numpy()
        if len(column) != neurons:
            raise cli.InputError(
                f"{path}: has {len(column)} neurons in layer {layer}, {activations} has {neurons}: they are of "
                "different models; delete one and run again"
            )
        return column

    draws = random_choices(neurons, width, settings["draws"], settings["seed"])
    choices = {("dense", "own"): [np.arange(neurons)], ("dense", "equal"): draws}
    for method, path in score_paths.items():
        choices[method, "own"] = [of_layer(mask_paths[method], "mask").nonzero()[0]]
        choices[method, "equal"] = [allocation.ranking(of_layer(path, "scores"))[:width]]
    curves, summaries = [], []
    shared = {
        **{key: settings[key] for key in ("model", "calib")},
        "layer": layer,
        "sparsity": names.share(settings["sparsity"]),
    }
    for (method, rule), sets in choices.items():
        curve, ranks = measure(a, sets)
        row = {**shared, "method": method, "width_rule": rule, "width": len(sets[0]), "tokens": tokens}
        curves.append(pd.DataFrame({**row, **curve}, index=curve.index))
        summaries.append({**row, **ranks})
    summary = pd.DataFrame(summaries)
    for path, frame in ((output_spectrum, pd.concat(curves)), (output_summary, summary)):
        artifacts.write_csv(path, frame, settings)
    print(summary.drop(columns=list(shared)).to_string(index=False))


if __name__ == "__main__":
    cli.run(spectrum)
