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
    from tqdm import tqdm

    from pruning.core import artifacts, layer_files
    from pruning.methods import masks, scoring

    cli.phase("start-up")
    given = {kind: Path(path) for kind, path in (pair.split("=", 1) for pair in evidence or ())}
    tables = {kind: artifacts.read_parquet(path, kind) for kind, path in given.items() if path.suffix == ".parquet"}

    @cache
    def checkpoint():
        from pruning.models.checkpoint import Checkpoint  # needs torch, which most scores do not

        artifacts.check_model(model)
        return Checkpoint(model)

    @cache
    def matrices(kind: str, name: str):
        return layer_files.read(given[kind], kind, checkpoint().channels(name))

    def read(index: int, name: str, kind: str) -> dict:
        tensors, manifest = matrices(layer_files.kind_of(kind, name), name)
        return {**tensors(index), **{key: manifest[key] for key in manifest if key.startswith("tokens")}}

    progress = partial(tqdm, mininterval=5)
    found = scoring.scored(settings, structure or [masks.NEURONS], tables, given, read, checkpoint, progress)
    artifacts.write_parquet(output, found, "scores", settings)


if __name__ == "__main__":
    cli.run(score)
