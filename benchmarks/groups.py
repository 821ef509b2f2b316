"""What leaving costs by the score `obs`, and what it does: divergence of the next tokens, with what is left refitted.

    python benchmarks/groups.py results/tiny-reasoner gsm_symbolic-s0 obs_joint results/data/gsm_symbolic/train.parquet

Of each layer the cheapest key-value group leaves, all groups, and the cheaper half of the neurons. Prints nats a token,
predicted (the sum of their scores) and measured, over the first `probed` samples of the calibration.
"""

from pathlib import Path
from typing import Annotated

import common  # noqa: F401 (finds the library)
import numpy as np
import torch
import typer

from pruning.calibration import prepare, second_moments
from pruning.core import artifacts
from pruning.methods import masks
from pruning.models import structures


def refitted(weight: torch.Tensor, second: torch.Tensor, stay: np.ndarray, damping: float = 1e-3) -> torch.Tensor:
    """W' [d, n] in float64, zero but for the columns that stay, with the least ‖(W - W') a‖² (scores/obs.py)."""
    second = second + damping * second.diagonal().mean() * torch.eye(len(second), dtype=torch.float64)
    made = torch.zeros_like(weight, dtype=torch.float64)
    if len(stay):
        made[:, stay] = weight.double() @ second[:, stay] @ torch.linalg.inv(second[stay][:, stay])
    return made


def main(
    results: Annotated[Path, typer.Argument(help="results/{model}")],
    calib: str,
    method: str,
    data: Annotated[Path, typer.Argument(help="parquet of the calibration's split")],
    probed: int = 48,
    threads: int = 1,
) -> None:
    manifest = results / "calibration" / calib / "attention_output_gradients.json"
    own = artifacts.read_json(manifest, "attention_output_gradients")["provenance"]["settings"]
    scores = artifacts.read_parquet(results / "scores" / calib / f"{method}.parquet", "scores")
    network, _, batches = prepare.loaded(results / "base", data, own, threads, None)
    few = prepare.first_samples(batches, probed)

    @torch.inference_mode()
    def answers() -> list[torch.Tensor]:
        outputs = (network(batch.ids, attention_mask=batch.counted.long()).logits[batch.counted] for batch in few)
        return [logits.float().log_softmax(-1) for logits in outputs]

    dense = answers()
    for structure in ("kv_groups", "ffn"):
        sites = structures.STRUCTURES[structure].sites(network)
        by_layer = masks.by_layer(masks.of(scores, structure), "score")
        for layer, sums in enumerate(second_moments.second_moments(network, batches, structure)):
            site, values = sites[layer], by_layer[layer]
            second = sum(each.double() for each in sums.values()) / sum(int(batch.counted.sum()) for batch in batches)
            order, weight = np.argsort(values, kind="stable"), site.weight.clone()
            for gone in (order[:1], order) if structure == "kv_groups" else (order[: len(order) // 2],):
                stay = np.flatnonzero(~np.repeat(np.isin(np.arange(len(values)), gone), len(second) // len(values)))
                site.weight.copy_(refitted(weight, second, stay))
                apart = [(p.exp() * (p - q)).sum(-1) for p, q in zip(dense, answers(), strict=True)]
                site.weight.copy_(weight)
                predicted, measured = values[gone].sum(), float(torch.cat(apart).mean())
                print(
                    f"layer {layer}, {len(gone)} of {len(values)} {structure}: predicted {predicted:.5f}, "
                    f"measured {measured:.5f}, {predicted / measured:.2f} of it",
                    flush=True,
                )


if __name__ == "__main__":
    with torch.no_grad():
        typer.run(main)
