"""A mixture of experts out of a dense Qwen2 model, to try pruning of experts on: sparse upcycling (Komatsuzaki et al.
2022, arXiv 2212.05055). Every expert begins as a copy of the FFN with noise, the router as noise alone; both are then
trained for some steps on the problems that the embedded reasoner was trained on, with the router's own balancing loss.

    python examples/upcycle.py resources/tiny-reasoner mixture

The result is a stock Qwen2-MoE, with a shared expert that adds nothing, which that family cannot be without.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2MoeConfig, Qwen2MoeForCausalLM
from transformers.models.qwen2_moe.modeling_qwen2_moe import load_balancing_loss_func

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
from pruning.data import reasoner  # noqa: E402


@torch.no_grad()
def upcycled(dense: nn.Module, experts: int, routed: int, noise: float) -> Qwen2MoeForCausalLM:
    """Return a mixture whose experts are the dense model's FFNs; noise is in units of each matrix's spread."""
    own = dense.config.to_dict()
    own = {key: value for key, value in own.items() if key not in ("model_type", "architectures", "layer_types")}
    own |= {"moe_intermediate_size": own["intermediate_size"], "shared_expert_intermediate_size": 8}
    model = Qwen2MoeForCausalLM(
        Qwen2MoeConfig(num_experts=experts, num_experts_per_tok=routed, norm_topk_prob=True, **own)
    )
    model.load_state_dict(dense.state_dict(), strict=False)
    for mine, theirs in zip(model.model.layers, dense.model.layers, strict=True):
        ffn, block = theirs.mlp, mine.mlp
        for parameter, matrix in (
            (block.experts.gate_up_proj, torch.cat([ffn.gate_proj.weight, ffn.up_proj.weight])),
            (block.experts.down_proj, ffn.down_proj.weight),
        ):
            parameter.copy_(matrix + noise * matrix.std() * torch.randn_like(parameter))
        nn.init.normal_(block.gate.weight, std=0.1)
        nn.init.zeros_(block.shared_expert.down_proj.weight)
    model.tie_weights()
    return model


def train(model: Qwen2MoeForCausalLM, stream, steps: int, rate: float) -> None:
    """Train experts and routers; all else stays as it is."""
    model.requires_grad_(False)
    for layer in model.model.layers:
        layer.mlp.experts.requires_grad_(True)
        layer.mlp.gate.requires_grad_(True)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate, weight_decay=0.05)
    for step in range(1, steps + 1):
        ids, weights = next(stream)
        with torch.autocast("cpu", torch.bfloat16):
            out = model(input_ids=ids[:, :-1], use_cache=False, output_router_logits=True)
        loss = reasoner.weighted_loss(out.logits, ids, weights)
        own = model.config
        balance = load_balancing_loss_func(out.router_logits, own.num_experts, own.num_experts_per_tok)
        (loss + 0.01 * balance).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate * reasoner.learning_rate_factor(step, steps, warmup=20)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0 or step == steps:
            print(f"step {step}: loss {loss.item():.4f}, balance {balance.item():.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("model", type=Path, help="folder of a dense Qwen2 model with the embedded reasoner's tokenizer")
    parser.add_argument("out", type=Path, help="folder to write")
    for name, value in {"experts": 8, "routed": 2, "steps": 300, "rows": 8, "length": 256, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--noise", type=float, default=0.6, help="of a matrix's standard deviation")
    parser.add_argument("--rate", type=float, default=5e-4, help="Adam's learning rate")
    asked = parser.parse_args()
    torch.manual_seed(asked.seed)
    recipe = json.loads((ROOT / "resources/tiny-reasoner/recipe.json").read_text())["provenance"]["settings"]
    tokenizer = AutoTokenizer.from_pretrained(asked.model)
    documents = reasoner.documents(recipe["templates"], asked.seed + 1, recipe["drills"], recipe["option_share"])
    dense = AutoModelForCausalLM.from_pretrained(asked.model, dtype=torch.float32)
    model = upcycled(dense, asked.experts, asked.routed, asked.noise)
    train(model, reasoner.batches(documents, tokenizer, asked.rows, asked.length), asked.steps, asked.rate)
    shutil.rmtree(asked.out, ignore_errors=True)
    model.to(torch.bfloat16).save_pretrained(asked.out)
    AutoTokenizer.from_pretrained(asked.model).save_pretrained(asked.out)


if __name__ == "__main__":
    main()
