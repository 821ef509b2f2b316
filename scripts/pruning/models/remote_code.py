"""The few lines with which stock transformers load a compact model that its stock class cannot hold.

They are written beside the weights (`modeling_pruned.py`, named by `auto_map` in config.json), so that
`from_pretrained(folder, trust_remote_code=True)` needs nothing of this project. Its own loader reads the same list of
widths and runs no code from a folder.
"""

from string import Template
from typing import Any

from pruning.models.families import Family

FILE = "modeling_pruned.py"

SOURCE = Template('''"""A pruned $stock: each layer's FFN has the width that `ffn_widths` in config.json says.

    AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)

Written with the model by its pruning pipeline. Apache License 2.0.
"""

from torch import nn
from transformers import $stock


class Pruned$stock($stock):
    def __init__(self, config):
        super().__init__(config)
        for layer, width in zip(self.get_submodule("$layers"), config.ffn_widths, strict=True):
            ffn, biased = layer.$ffn, getattr(config, "ffn_down_bias", False)
            for name in $gate_up:
                old = getattr(ffn, name)
                setattr(ffn, name, linear(old, old.in_features, $fused * width, old.bias is not None))
            old = ffn.$down
            ffn.$down = linear(old, width, old.out_features, old.bias is not None or biased)
            if hasattr(ffn, "intermediate_size"):
                ffn.intermediate_size = width


def linear(old, inputs, outputs, bias):
    return nn.Linear(inputs, outputs, bias=bias, dtype=old.weight.dtype, device=old.weight.device)
''')


def stock_name(config: dict[str, Any]) -> str:
    """transformers' class of a causal language model with this config.json."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES  # slow to import

    return MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config["model_type"]]


def source(stock: str, family: Family) -> str:
    """The file for a family whose stock class is `stock`."""
    fused = 2 if len(family.gate_up) == 1 else 1
    names = {"layers": family.layers, "ffn": family.ffn, "gate_up": list(family.gate_up), "down": family.down}
    return SOURCE.substitute(names, stock=stock, fused=fused)


def named(config: dict[str, Any], stock: str) -> dict[str, Any]:
    """config.json that says so."""
    kind = f"Pruned{stock}"
    module = FILE.removesuffix(".py")
    return {**config, "architectures": [kind], "auto_map": {"AutoModelForCausalLM": f"{module}.{kind}"}}
