"""The least sparsity, in whole per cent, at which a method's model costs no more than a budget: a JSON that says it,
what that model costs, and all that was tried.

Widths are those that scripts/mask.py allocates; no mask and no model is written.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pruning.core import cli


def budget(
    settings: cli.Settings,
    scores: Annotated[Path, typer.Option(help="scores of one method")],
    layers: Annotated[Path, typer.Option(help="layers.parquet of the calibration")],
    base: Annotated[Path, typer.Option(help="manifest.json of the model")],
    output: Annotated[Path, typer.Option(help="JSON")],
    measured: Annotated[
        Path | None, typer.Option(help="measured cost of removals, for allocations that need it")
    ] = None,
    latencies: Annotated[Path | None, typer.Option(help="latency table, for allocations that need it")] = None,
    threads: int = 1,
) -> None:
    """Settings: `kind`, `value` and `share` (config/budgets.py) and `text`, as it was given; of the method `allocate`,
    `options`, `min_keep` or `drop_layers`, `round_to`, `compensate`, `export`, and `vocabulary` where that is cut; of
    times those of a clock."""

    from pruning.analysis import timing
    from pruning.core import artifacts, out_of_memory
    from pruning.methods import allocation
    from pruning.methods import budget as stage

    cli.phase("start-up")
    frame = artifacts.read_parquet(scores, "scores")
    problem = allocation.read_problem(frame, layers, base, settings.get("min_keep"), measured, latencies)

    def kept(sparsity: int) -> dict[str, tuple[int, ...]]:
        """Structure -> units of each layer; a padded model is as wide everywhere as its widest layer."""
        units = {name: tuple(own.tolist()) for name, own in allocation.units(problem, sparsity, settings).items()}
        if settings["export"] == "pad":
            units[problem.main] = (max(units[problem.main]),) * len(units[problem.main])
        return units

    kind, text = settings["kind"], settings["text"]
    costs: dict[int, stage.Cost] = {}
    advice = f"two models and `prompt_tokens: {settings.get('prompt_tokens')}` of the budget: lower it"
    with out_of_memory.advise(advice):
        candidates = timing.candidates(base.parent, kind, settings["compensate"] == "bias", settings)
        cli.phase("load")
        dense = candidates.dense
        target = settings["value"] * dense if settings["share"] else settings["value"]
        if target >= dense:
            raise stage.nothing(kind, text, dense)

        def meets(sparsity: int) -> bool:
            costs[sparsity] = candidates.cost(kept(sparsity))
            return costs[sparsity].high <= target

        sparsity = stage.least(meets, kind, int("vocabulary" not in settings))
    costs = dict(sorted(costs.items()))
    if sparsity is None:
        last = min(costs, key=lambda s: costs[s].value)
        at = f"at {last}%" + (f" and `min_keep: {settings['min_keep']}`" if "min_keep" in settings else "")
        if costs[last].low < target:
            at += ", and its interval reaches below: more `rounds`, and nothing else running, would tell"
        raise stage.unmet(kind, text, costs[last], at)
    units = kept(sparsity)
    found = {"kind": kind, "asked": text, "target": target, "dense": dense, "sparsity": sparsity}
    found |= {"cost": asdict(costs[sparsity]), "widths": units.pop(problem.main), **units}
    found |= candidates.notes
    found["tried"] = [{"sparsity": s, **asdict(c), "meets": c.high <= target} for s, c in costs.items()]
    artifacts.write_json(output, found, "budget", settings)
    print(f"{kind} of at most {target:.6g} ({text}): {sparsity}%, {costs[sparsity]}; dense {dense:.6g}")


if __name__ == "__main__":
    cli.run(budget)
