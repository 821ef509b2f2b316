"""Score every FFN neuron by one method: results/{model}/scores/{calib}/{method}.parquet (layer, unit, score), and every
unit of other structures that the method cuts (structure, and parameters: those of one neuron, or unit)."""

from functools import cache, partial
from pathlib import Path
from typing import Annotated

import typer

from pruning.core import cli


def score(
    settings: cli.Settings,
    model: Annotated[Path, typer.Option(help="directory of the dense model")],
    output: Annotated[Path, typer.Option()],
    evidence: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND=PATH", help="table, or manifest of matrices, that the score is made of; repeat"),
    ] = None,
    structure: Annotated[list[str] | None, typer.Option(help="whose units are scored; repeat")] = None,
    threads: int = 1,
) -> None:
    import numpy as np
    import pandas as pd
    from tqdm import tqdm

    from pruning.core import artifacts, layer_files
    from pruning.methods import masks, scores
    from pruning.methods.normalise import NORMALISATIONS

    cli.phase("start-up")
    plugin, required = scores.plugin(settings["score"]), scores.requires(settings["score"])
    normalise = NORMALISATIONS[settings["normalise"]]
    structures = structure or [masks.NEURONS]
    given = {kind: Path(path) for kind, path in (pair.split("=", 1) for pair in evidence or ())}
    tables = (kind for kind in required if kind in given and given[kind].suffix == ".parquet")
    table = next(tables, "statistics")  # whose rows are the neurons
    needed = {table, *(layer_files.kind_of(kind, name) for kind in required for name in structures)}
    if missing := sorted(needed - given.keys()):
        raise cli.InputError(f"score {settings['score']!r} needs --evidence of {', '.join(missing)} (REQUIRES)")

    @cache
    def checkpoint():
        from pruning.models.checkpoint import Checkpoint  # needs torch, which most scores do not

        artifacts.check_model(model)
        return Checkpoint(model)

    @cache
    def matrices(name: str, kind: str):
        own = layer_files.kind_of(kind, name)
        return layer_files.read(given[own], own, checkpoint().channels(name))

    def read(index: int, name: str, kind: str) -> dict:
        tensors, manifest = matrices(name, kind)
        return {**tensors(index), **{key: manifest[key] for key in manifest if key.startswith("tokens")}}

    def scored(layer: scores.Layer, units: int) -> np.ndarray:
        """Return a score per unit: one that is made of channels' is their sum."""
        try:
            values = normalise(plugin.score(layer, **settings["options"]).reshape(units, -1).sum(1))
        except (TypeError, ValueError) as error:
            raise cli.InputError(f"score {settings['score']!r} with options {settings['options']}: {error}") from None
        if settings["shuffle"] is not None:
            values = np.random.default_rng((settings["shuffle"], layer.index)).permutation(values)
        if not np.isfinite(values).all():
            of = given.get(layer_files.kind_of(table, name), name)
            raise cli.InputError(f"score {settings['score']!r}: NaN or Inf in layer {layer.index} of {of}")
        return values

    frames = []
    for name in structures:
        kind = layer_files.kind_of(table, name)
        rows = artifacts.read_parquet(given[kind], kind) if kind in given else pd.DataFrame({"layer": []})
        tables = {index: own for index, own in rows.groupby("layer")}
        neurons = name == masks.NEURONS
        counts = (
            {index: len(own) for index, own in tables.items()} if neurons else dict(enumerate(checkpoint().units(name)))
        )
        sizes = {"structure": name, "parameters": checkpoint().size(name)} if len(structures) > 1 else {}
        for index, count in tqdm(list(counts.items()), f"layers, {name}", mininterval=5):
            columns = {column: values.to_numpy() for column, values in tables.get(index, {}).items()}
            block = 1 if neurons else checkpoint().channels(name)[index] // count
            weights = scores.Weights(lambda which, at=(index, name): checkpoint().matrix(at[0], which, at[1]))
            values = scored(scores.Layer(index, columns, weights, partial(read, index, name), block), count)
            units = columns["unit"] if neurons else np.arange(count)
            frames.append(pd.DataFrame({"layer": index, "unit": units, "score": values}).assign(**sizes))
    artifacts.write_parquet(output, pd.concat(frames, ignore_index=True), "scores", settings)


if __name__ == "__main__":
    cli.run(score)
