"""Turn scores into a mask at one sparsity: one row per unit (layer, unit, keep), and, where more than FFN neurons are
cut, of which structure."""

from pathlib import Path

from pruning.core import cli

TOLERANCE = 0.005
"""Share of the neurons by which a mask may miss the sparsity without a warning: half of the steps that can be asked."""


def mask(
    settings: cli.Settings,
    scores: Path,
    base: Path,
    sparsity: int,
    output: Path,
    evidence: cli.Evidence = None,
) -> None:
    """scores: of one method. base: manifest.json of the model. sparsity: per cent of FFN neurons to remove. evidence:
    what the allocation asks for."""
    from pruning.core import artifacts
    from pruning.methods import allocation

    frame = artifacts.read_parquet(scores, "scores")
    problem = allocation.read_problem(frame, base, settings.get("min_keep"), cli.paths(evidence))
    found, units = allocation.mask(frame, problem, sparsity, settings)
    artifacts.write_parquet(output, found, "mask", {**settings, "sparsity": sparsity})
    achieved = allocation.achieved(problem, units)
    kept = "; ".join(f"{structure} {counts.tolist()}" for structure, counts in units.items())
    print(f"asked {sparsity / 100:.1%}, achieved {achieved:.1%}; kept: {kept}")
    if abs(achieved - sparsity / 100) > TOLERANCE and settings["options"].get("per", "parameters") == "parameters":
        print(
            f"warning: {achieved:.1%} removed where {sparsity}% was asked: layers, `min_keep` and `round_to` permit "
            "nothing nearer; lower these two, or do not compare this mask at equal sparsity"
        )


if __name__ == "__main__":
    cli.run(mask)
