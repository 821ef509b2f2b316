"""A mixture of experts made of a dense model that is then trained on: sparse upcycling (Komatsuzaki et al. 2023, arXiv
2212.05055) with experts that are parts of an FFN (He et al. 2024, arXiv 2410.07524). An optional part, as reasoner.py.

The neurons of each FFN become a shared expert and `active` shards. Two experts begin as each shard, and the router's
rows for them are opposite: of two opposite numbers one is positive, so the `active` largest logits are one of each
pair, and at first the mixture computes what the dense model does.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen2ForCausalLM, Qwen2MoeConfig, Qwen2MoeForCausalLM

from pruning.core.errors import InputError

ROUTER = 0.02
"""Standard deviation of the router's weights at first: small, so that its experts are weighted nearly alike."""


def upcycled(dense: Qwen2ForCausalLM, settings: Mapping[str, Any]) -> Qwen2MoeForCausalLM:
    """Return the mixture of a dense model; settings: the config's section `reasoner.mixture`.

    Raises InputError where the neurons beside the shared expert's are no whole shards."""
    old, active, shared = dense.config, settings["active"], settings["shared"]
    width, rest = divmod(old.intermediate_size - shared, active)
    if rest or width < 1:
        raise InputError(
            f"reasoner.mixture: {old.intermediate_size} neurons without {shared} of the shared expert are no {active} "
            "equal experts: set another `shared` or `active`"
        )
    common = {key: value for key, value in old.to_dict().items() if key not in ("architectures", "model_type")}
    config = Qwen2MoeConfig(
        **{**common, "moe_intermediate_size": width, "shared_expert_intermediate_size": shared},
        **{"num_experts": 2 * active, "num_experts_per_tok": active, "norm_topk_prob": True, "qkv_bias": True},
    )
    made = Qwen2MoeForCausalLM(config)
    missing = made.load_state_dict(dense.state_dict(), strict=False).missing_keys
    assert all(".mlp." in name for name in missing), missing
    with torch.no_grad():
        for new, layer in zip(made.model.layers, dense.model.layers, strict=True):
            _fill(new.mlp, layer.mlp, active, shared, settings["noise"])
    return made


def _fill(block: nn.Module, ffn: nn.Module, active: int, shared: int, noise: float) -> None:
    """Give one layer's experts the dense FFN's weights. The shared expert's gate is 1/2, the others' weights about
    1 / active: what they put out is scaled up for that."""
    gate, up, down = ffn.gate_proj.weight, ffn.up_proj.weight, ffn.down_proj.weight
    block.shared_expert.gate_proj.weight.copy_(gate[:shared])
    block.shared_expert.up_proj.weight.copy_(up[:shared])
    block.shared_expert.down_proj.weight.copy_(2 * down[:, :shared])
    block.shared_expert_gate.weight.zero_()
    router = torch.randn(active, gate.shape[1]) * ROUTER
    block.gate.weight.copy_(torch.cat([router, -router]))
    shards = zip(*(part[shared:].chunk(active) for part in (gate, up, down.T)), strict=True)
    for index, (rows, others, columns) in enumerate(shards):
        for expert in (index, index + active):
            block.experts.gate_up_proj[expert] = _varied(torch.cat([rows, others]), noise)
            block.experts.down_proj[expert] = _varied(active * columns.T, noise)


def _varied(weight: Tensor, noise: float) -> Tensor:
    return weight * (1 + noise * torch.randn_like(weight))
