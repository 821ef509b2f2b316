"""The least sparsity at which a model costs no more than a budget, by widths as scripts/mask.py allocates them."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pruning.analysis import timing
from pruning.core import artifacts, out_of_memory
from pruning.methods import allocation
from pruning.methods.budget import Cost, least, nothing, unmet


def met(settings: Mapping[str, Any], scores: Path, base: Path, evidence: Mapping[str, Path]) -> dict[str, Any]:
    """Return `sparsity`, the `cost` of that model with its interval, its `widths`, and all that was `tried`.

    settings: as scripts/budget.py says. Raises InputError where the dense model meets the budget, or nothing does."""
    frame = artifacts.read_parquet(scores, "scores")
    problem = allocation.read_problem(frame, base, settings.get("min_keep"), evidence)

    def kept(sparsity: int) -> dict[str, tuple[int, ...]]:
        """Structure -> units of each layer; a padded model is as wide everywhere as its widest layer."""
        units = {name: tuple(own.tolist()) for name, own in allocation.units(problem, sparsity, settings).items()}
        if settings["export"] == "pad":
            units[problem.main] = (max(units[problem.main]),) * len(units[problem.main])
        return units

    kind, text = settings["kind"], settings["text"]
    costs: dict[int, Cost] = {}
    advice = f"two models and `prompt_tokens: {settings.get('prompt_tokens')}` of the budget: lower it"
    with out_of_memory.advise(advice):
        candidates = timing.candidates(base.parent, kind, settings["compensate"] == "bias", settings)
        dense = candidates.dense
        target = settings["value"] * dense if settings["share"] else settings["value"]
        if target >= dense:
            raise nothing(kind, text, dense)

        def meets(sparsity: int) -> bool:
            costs[sparsity] = candidates.cost(kept(sparsity))
            return costs[sparsity].high <= target

        sparsity = least(meets, kind, int("vocabulary" not in settings))
    costs = dict(sorted(costs.items()))
    if sparsity is None:
        last = min(costs, key=lambda s: costs[s].value)
        at = f"at {last}%" + (f" and `min_keep: {settings['min_keep']}`" if "min_keep" in settings else "")
        if costs[last].low < target:
            at += ", and its interval reaches below: more `rounds`, and nothing else running, would tell"
        raise unmet(kind, text, costs[last], at)
    units = kept(sparsity)
    found = {"kind": kind, "asked": text, "target": target, "dense": dense, "sparsity": sparsity}
    found |= {"cost": asdict(costs[sparsity]), "widths": units.pop(problem.main), **units, **candidates.notes}
    return found | {"tried": [{"sparsity": s, **asdict(c), "meets": c.high <= target} for s, c in costs.items()]}
