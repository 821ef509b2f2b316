"""Score every FFN neuron by one method: results/{model}/scores/{calib}/{method}.parquet (layer, unit, score), and every
key-value group, where the method cuts those as well (structure, and parameters: those of one neuron, or group)."""

import importlib
from functools import cache, partial
from pathlib import Path
from typing import Annotated

import typer

from pruning.core import cli


def score(
    settings: cli.Settings,
    model: Annotated[Path, typer.Option(help="directory of the dense model")],
    statistics: Annotated[Path, typer.Option(help="statistics.parquet, or what the score names instead")],
    output: Annotated[Path, typer.Option()],
    evidence: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND=PATH", help="manifest of what else the score needs, of attention's too; repeat"),
    ] = None,
    attention: Annotated[Path | None, typer.Option(help="statistics of attention, to score groups")] = None,
) -> None:
    cli.check_gpus()
    import numpy as np
    import pandas as pd
    from tqdm import tqdm

    from pruning.core import artifacts, layer_files
    from pruning.methods import masks
    from pruning.methods.normalise import NORMALISATIONS
    from pruning.methods.scores import Layer, Weights, groups_by, needs_of, statistics_of

    cli.phase("start-up")
    plugin = importlib.import_module(f"pruning.methods.scores.{settings['score']}")
    kind = statistics_of(settings["score"])
    normalise = NORMALISATIONS[settings["normalise"]]

    @cache
    def checkpoint():
        from pruning.models.checkpoint import Checkpoint  # needs torch, which most scores do not

        artifacts.check_model(model)
        return Checkpoint(model)

    def weights(layer: int) -> Weights:
        return Weights(lambda projection: checkpoint().matrix(layer, projection))

    of_groups, matrices = groups_by(settings["score"]), {}
    attention_kind = layer_files.kind_of(kind, "kv_groups")
    for kind_of, path in (pair.split("=", 1) for pair in evidence or ()):
        widths = checkpoint().channels if kind_of in of_groups else checkpoint().widths
        matrices[kind_of] = layer_files.read(Path(path), kind_of, widths)

    both = attention is not None or not matrices.keys().isdisjoint(of_groups)
    needed = {*needs_of(settings["score"]), *(of_groups if both else ())}
    if missing := sorted(needed - matrices.keys() - {attention_kind if attention else ""}):
        raise cli.InputError(f"score {settings['score']!r} needs --evidence of {', '.join(missing)} (rules/score.smk)")

    def read(layer: int, structure: str, matrix: str) -> dict:
        tensors, manifest = matrices[layer_files.kind_of(matrix, structure)]
        return {**tensors(layer), **{key: manifest[key] for key in manifest if key.startswith("tokens")}}

    def scored(layer: Layer, of: Path | str, groups: int | None = None) -> np.ndarray:
        """A score a neuron, or a group: one that is made of channels' is their sum."""
        try:
            values = plugin.score(layer, **settings["options"])
            values = normalise(values if groups is None else values.reshape(groups, -1).sum(1))
        except (TypeError, ValueError) as error:
            raise cli.InputError(f"score {settings['score']!r} with options {settings['options']}: {error}") from None
        if settings["shuffle"] is not None:
            values = np.random.default_rng((settings["shuffle"], layer.index)).permutation(values)
        if not np.isfinite(values).all():
            raise cli.InputError(f"score {settings['score']!r}: NaN or Inf in layer {layer.index} of {of}")
        return values

    frames = []
    for index, rows in tqdm(list(artifacts.read_parquet(statistics, kind).groupby("layer")), "layers", mininterval=5):
        columns = {name: rows[name].to_numpy() for name in rows.columns}
        values = scored(Layer(index, columns, weights(index), partial(read, index, masks.NEURONS)), statistics)
        frames.append(pd.DataFrame({"layer": index, "unit": columns["unit"], "score": values}))
    if both:
        sizes, channels = checkpoint().sizes, checkpoint().channels
        frames = [frame.assign(structure=masks.NEURONS, parameters=sizes["neuron"]) for frame in frames]
        tables = dict(list(artifacts.read_parquet(attention, attention_kind).groupby("layer"))) if attention else {}
        for index, count in enumerate(checkpoint().groups):
            columns = {name: column.to_numpy() for name, column in tables[index].items()} if tables else {}
            own = Weights(partial(checkpoint().attention_matrix, index)), partial(read, index, masks.GROUPS)
            values = scored(Layer(index, columns, *own, channels[index] // count), attention or "attention", count)
            frame = pd.DataFrame({"layer": index, "unit": np.arange(count), "score": values})
            frames.append(frame.assign(structure=masks.GROUPS, parameters=sizes["group"]))
    artifacts.write_parquet(output, pd.concat(frames, ignore_index=True), "scores", settings)


if __name__ == "__main__":
    cli.run(score)
