"""The least sparsity, in whole per cent, at which a method's model costs no more than a budget: a JSON that says it,
what that model costs, and all that was tried.

Widths are those that scripts/mask.py allocates; no mask and no model is written.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pruning.core import cli

Shape = tuple[tuple[int, ...], tuple[int, ...] | None]
"""Widths, and key-value groups, of every layer; None where no groups are cut."""


def budget(
    settings: cli.Settings,
    scores: Annotated[Path, typer.Option(help="scores of one method")],
    layers: Annotated[Path, typer.Option(help="layers.parquet of the calibration")],
    base: Annotated[Path, typer.Option(help="manifest.json of the model")],
    output: Annotated[Path, typer.Option(help="JSON")],
    measured: Annotated[Path | None, typer.Option(help="what cuts cost, for allocations that ask for it")] = None,
    latencies: Annotated[Path | None, typer.Option(help="latency table, for allocations that ask for it")] = None,
    threads: int = 1,
) -> None:
    """Settings: `kind`, `value` and `share` (config/budgets.py) and `text`, as it was given; of the method `allocate`,
    `options`, `min_keep` or `drop_layers`, `round_to`, `compensate`, `export`; of times `dtype`, `prompt_tokens`,
    `decode_tokens`, `rounds`, `warmup`, `confidence`, `resamples`, `seed`."""
    cli.set_threads(threads)
    from pruning.analysis import budget as stage
    from pruning.core import artifacts
    from pruning.methods import allocation
    from pruning.models.checkpoint import Checkpoint

    cli.phase("start-up")
    problem = allocation.problem_of(
        artifacts.read_parquet(scores, "scores"),
        artifacts.read_parquet(layers, "layers"),
        artifacts.read_json(base, "base"),
        settings.get("min_keep"),
        artifacts.read_parquet(measured, "sensitivity") if measured else None,
        artifacts.read_parquet(latencies, "latency_table") if latencies else None,
    )

    def shape(sparsity: int) -> Shape:
        """As the model has it: a padded one's widths are the widest, everywhere."""
        units = allocation.units(problem, sparsity, settings)
        found, groups = units["ffn"].tolist(), units.get("kv_groups")
        widths = [max(found)] * len(found) if settings["export"] == "pad" else found
        return tuple(widths), None if groups is None else tuple(groups.tolist())

    kind, biased = settings["kind"], settings["compensate"] == "bias"
    timed, notes = kind not in ("parameters", "bytes"), {}
    if timed:
        clocked, dense, notes = clock(base.parent, kind, biased, settings, threads)
    else:
        sizes = stage.Sizes(Checkpoint(base.parent), kind, biased)
        dense = sizes.dense
    # Of times, shares of the dense model's are what is measured.
    unit = dense if timed else 1
    target = settings["value"] * dense if settings["share"] else settings["value"]
    if target >= dense:
        raise stage.nothing(kind, settings["text"], dense)
    costs: dict[int, stage.Cost] = {}

    def cost(sparsity: int) -> stage.Cost:
        own = shape(sparsity)
        costs[sparsity] = clocked(own) if timed else stage.counted(sizes.of(*own))
        return costs[sparsity]

    if timed:
        sparsity = stage.bisected(cost, target / unit)
    else:
        for each in range(1, stage.MOST + 1):
            cost(each)
        sparsity = stage.scanned(costs, target)
    costs = {s: stage.Cost(c.value * unit, c.low * unit, c.high * unit) for s, c in sorted(costs.items())}
    if sparsity is None:
        last = min(costs, key=lambda s: costs[s].value)
        kept = f"at {last}%" + (f" and `min_keep: {settings['min_keep']}`" if "min_keep" in settings else "")
        if costs[last].low < target:
            kept += ", and its interval reaches below: more `rounds`, and nothing else running, would tell"
        raise stage.unmet(kind, settings["text"], costs[last], kept)
    widths, groups = shape(sparsity)
    found = {
        "kind": kind,
        "asked": settings["text"],
        "target": target,
        "dense": dense,
        "sparsity": sparsity,
        "cost": asdict(costs[sparsity]),
        "widths": widths,
        **({"kv_groups": groups} if groups else {}),
        **notes,
        "tried": [{"sparsity": s, **asdict(c), "meets": c.high <= target} for s, c in costs.items()],
    }
    artifacts.write_json(output, found, "budget", settings)
    print(f"{kind} of at most {target:.6g} ({settings['text']}): {sparsity}%, {costs[sparsity]}; dense {dense:.6g}")


def clock(model: Path, kind: str, biased: bool, settings: dict, threads: int):
    """A function from a shape to a Cost as a share of the dense model's time, that time in ms, and how it was measured.

    Equal shapes are measured once. A candidate is cut in the dense model's memory (analysis/latency.py)."""
    import torch

    from pruning.analysis import budget as stage
    from pruning.analysis import latency
    from pruning.core import out_of_memory
    from pruning.models import loading
    from pruning.models.structures import ffn

    torch.set_num_threads(threads)
    part = kind.removesuffix("_ms")
    prompt, decoded = settings["prompt_tokens"], settings["decode_tokens"] if part == "decode" else 1
    plan = (prompt, decoded, settings["rounds"], settings["warmup"])
    chance = (settings["confidence"], settings["resamples"], settings["seed"])
    advice = f"two models and `prompt_tokens: {prompt}` of the budget: lower it"
    with out_of_memory.advise(advice):
        dense, _ = loading.load(model, settings["dtype"])
        latency.check_context(prompt, decoded, dense.config)
        cli.phase("load")
        alone = latency.measure({"dense": dense}, *plan, settings["seed"])[f"{part}_s"].median()
    known: dict[Shape, stage.Cost] = {}

    def measured(shape: Shape) -> stage.Cost:
        if shape not in known:
            with out_of_memory.advise(advice):
                pruned = latency.narrowed(dense, *shape)
                if biased and ffn.sites(pruned)[0].bias is None:
                    ffn.add_down_bias(pruned)
                both = {"dense": dense, "pruned": pruned}
                times = latency.measure(both, *plan, settings["seed"] + len(known) + 1)
            times = times.pivot(index="round", columns="variant", values=f"{part}_s")
            median, low, high = latency.speedup(times["dense"], times["pruned"], *chance)
            known[shape] = stage.Cost(1 / median, 1 / high, 1 / low)
        return known[shape]

    per_token = 1000 / (decoded if part == "decode" else 1)
    keys = ("dtype", "prompt_tokens", "rounds", "confidence") + (("decode_tokens",) if part == "decode" else ())
    how = {"device": latency.device_name(dense.device), "threads": threads, **{key: settings[key] for key in keys}}
    return measured, float(alone) * per_token, how


if __name__ == "__main__":
    cli.run(budget)
