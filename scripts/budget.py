"""The least sparsity, in whole per cent, at which a method's model costs no more than a budget: a JSON that says it,
what that model costs, and all that was tried.

Widths are those that scripts/mask.py allocates; no mask and no model is written.
"""

from pathlib import Path

from pruning.core import cli


def budget(
    settings: cli.Settings,
    scores: Path,
    base: Path,
    output: Path,
    evidence: cli.Evidence = None,
    threads: int = 1,
) -> None:
    """scores: of one method. base: manifest.json of the model. evidence: what the allocation asks for. output: JSON.

    Settings: `kind`, `value` and `share` (config/budgets.py) and `text`, as it was given; of the method `allocate`,
    `options`, `min_keep` or `drop_layers`, `round_to`, `compensate`, `export`, and `vocabulary` where that is cut; of
    times those of a clock."""
    from pruning.analysis import budgets
    from pruning.core import artifacts

    found = budgets.met(settings, scores, base, cli.paths(evidence))
    artifacts.write_json(output, found, "budget", settings)
    cost = "{value:.6g} [{low:.6g}, {high:.6g}]".format(**found["cost"])
    print(f"{found['kind']}: {cost} at {found['sparsity']}%, of at most {found['target']:.6g} ({found['asked']})")


if __name__ == "__main__":
    cli.run(budget)
