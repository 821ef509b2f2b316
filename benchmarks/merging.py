"""Experts merged in place of removed: does what the removed ones did help, averaged into those that stay?

    snakemake --cores 2 results/mixtures/experts.csv --configfile config/experts.yaml
    python benchmarks/merging.py frequency reap

For each method at a sparsity, the experts of its mask stay, once as they are (`removed`) and twice as averages,
weighted by how often the router chose each expert in 200 calibration problems (M-SMoE, Li et al. 2023, arXiv
2310.01334): every removed expert joins the kept one whose router logits (`router`), or weights (`weights`), have the
greatest cosine with its own. Prints the share of right answers to the task's problems, and the problems gained and lost
against `removed`.
"""

from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer
from common import snakemake
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from pruning.core import artifacts, significance

MODEL, CALIB, TASK, METRIC = "tiny-mixture", "gsm_symbolic-s0", "gsm_symbolic", "exact_match,strict-match"
HOW = ("removed", "router", "weights")


def routed(model: nn.Module, tokenizer: object, texts: list[str]) -> tuple[list[Tensor], list[Tensor]]:
    """Return of each layer the router's logits [tokens, experts] and how often it chose each expert [experts]."""
    with torch.inference_mode():
        made = [
            model(**tokenizer(text, return_tensors="pt"), output_router_logits=True).router_logits for text in texts
        ]
    logits = [torch.cat(layer) for layer in zip(*made, strict=True)]
    top = [layer.topk(model.config.num_experts_per_tok).indices for layer in logits]
    return logits, [torch.bincount(own.flatten(), minlength=model.config.num_experts) for own in top]


@torch.no_grad()
def merge(model: nn.Module, kept: list[list[int]], how: str, logits: list[Tensor], chosen: list[Tensor]) -> None:
    """Leave the kept experts of each layer and their rows of the router, in place."""
    for layer, keep, seen, often in zip(model.model.layers, kept, logits, chosen, strict=True):
        experts, router = layer.mlp.experts, layer.mlp.gate
        matrices = (experts.gate_up_proj, experts.down_proj)
        told = nn.functional.normalize(seen.T if how == "router" else torch.cat([m.flatten(1) for m in matrices], 1))
        joined = {expert: [expert] for expert in keep}
        for expert in range(len(often)) if how != "removed" else ():
            if expert not in keep:
                joined[keep[int((told[keep] @ told[expert]).argmax())]].append(expert)
        share = torch.zeros(len(keep), len(often))
        for row, own in enumerate(joined.values()):
            share[row, own] = often[own] / often[own].sum()
        experts.gate_up_proj, experts.down_proj = (
            nn.Parameter(torch.einsum("ke,e...->k...", share, m)) for m in matrices
        )
        router.weight = nn.Parameter(router.weight[keep].clone())
    model.config.num_experts = len(keep)


def main(
    methods: list[str], sparsity: int = 50, into: Annotated[Path, typer.Option()] = Path("results/merging")
) -> None:
    base = Path(f"results/{MODEL}/base")
    data = pd.read_parquet(f"results/data/{TASK}/train.parquet").head(200)
    texts = [f"Question: {row.question}\nAnswer: {row.answer}" for row in data.itertuples()]
    tokenizer = AutoTokenizer.from_pretrained(base)
    seen = routed(AutoModelForCausalLM.from_pretrained(base, dtype="float32"), tokenizer, texts)
    names = {}
    for method in methods:
        mask = artifacts.read_parquet(f"results/{MODEL}/masks/{CALIB}/{method}/{sparsity}.parquet", "mask")
        kept = [layer.unit[layer.keep].tolist() for _, layer in mask.groupby("layer")]
        for how in HOW:
            model = AutoModelForCausalLM.from_pretrained(base, dtype="float32")
            merge(model, kept, how, *seen)
            names[method, how] = f"{method}-{how}"
            for part in (model, tokenizer):
                part.save_pretrained(into / names[method, how])
    own = ", ".join(
        f"{name}: {{source: {{kind: local, path: {into / name}}}, memory_gb: 1}}" for name in names.values()
    )
    files = {key: Path(f"results/{name}/eval/dense/{TASK}.samples.parquet") for key, name in names.items()}
    asked = [path.with_name(f"{TASK}.json") for path in files.values()]
    snakemake("--cores", 2, *asked, "--configfile", "config/experts.yaml", "--config", f"models={{{own}}}")
    for (method, how), path in files.items():
        right = [(f := pd.read_parquet(one))[f.metric == METRIC].value for one in (files[method, HOW[0]], path)]
        gained, lost = int((right[1] > right[0]).sum()), int((right[1] < right[0]).sum())
        _, p = significance.mcnemar_exact(*right)
        print(f"{method} {how}: {100 * right[1].mean():.1f}, gained {gained}, lost {lost}, p = {p:.2g}")


if __name__ == "__main__":
    typer.run(main)
