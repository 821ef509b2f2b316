"""Score every FFN neuron by one method: results/{model}/scores/{calib}/{method}.parquet (layer, unit, score), and every
unit of other structures that the method cuts (structure, and parameters: those of one neuron, or unit)."""

from functools import partial
from pathlib import Path

from pruning.core import cli


def score(
    settings: cli.Settings,
    model: Path,
    output: Path,
    evidence: cli.Evidence = None,
    structure: list[str] | None = None,
    threads: int = 1,
) -> None:
    """model: directory of the dense model. evidence: what the score is made of. structure: whose units are scored."""
    from tqdm import tqdm

    from pruning.core import artifacts
    from pruning.methods import masks, scoring

    progress, structures = partial(tqdm, mininterval=5), structure or [masks.NEURONS]
    found = scoring.scored_from(settings, structures, cli.paths(evidence), model, progress, print)
    artifacts.write_parquet(output, found, "scores", settings)


if __name__ == "__main__":
    cli.run(score)
