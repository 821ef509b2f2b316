"""The few lines with which stock transformers load a compact model that its stock class cannot hold.

They are written beside the weights (`modeling_pruned.py`, named by `auto_map` in config.json), so that
`from_pretrained(folder, trust_remote_code=True)` needs nothing of this project, nor does vLLM's Transformers backend.
Its own loader reads the same list of widths and runs no code from a folder.
"""

import re
from pathlib import Path
from string import Template
from typing import Any

from pruning.core.errors import InputError
from pruning.models import structures
from pruning.models.families import Family, family_of, read_config
from pruning.models.multimodal import KINDS
from pruning.models.structures import STRUCTURES

FILE = "modeling_pruned.py"

SOURCE = Template('''"""A pruned $stock: each layer's FFN has the width that `ffn_widths` in config.json says.

    AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    vllm.LLM(folder, model_impl="transformers", trust_remote_code=True)

Written with the model by its pruning pipeline. Apache License 2.0.
"""

from torch import nn
from transformers import $base, $stock


class Pruned$base($base):
    def __init__(self, config):
        super().__init__(config)
        resize(self.get_submodule("$own_layers"), $config)


class Pruned$stock($stock):
    def __init__(self, config):
        super().__init__(config)
        resize(self.get_submodule("$layers"), $config)


def resize(layers, config):
    for layer, width in zip(layers, config.ffn_widths, strict=True):
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


RENAMED = Template("""

def as_stock(own, stock, kind):
    \"""Let transformers read older names of tensors for a class of ours as for its own.\"""
    mapping = conversion_mapping.get_checkpoint_conversion_mapping(stock)
    mapping = mapping or conversion_mapping.get_checkpoint_conversion_mapping(kind)
    if mapping:
        conversion_mapping.register_checkpoint_conversion_mapping(own, mapping, overwrite=True)


as_stock("Pruned$stock", "$stock", "$kind")
as_stock("Pruned$base", "$base", "$kind")
""")


def class_names(model_type: str, multimodal: bool = False) -> tuple[str, str]:
    """Return transformers' class of a causal language model of this type, or of a multimodal model, and of the same
    without a head."""
    from transformers.models.auto import modeling_auto as auto  # slow to import

    kinds = auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES if multimodal else auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return kinds[model_type], auto.MODEL_MAPPING_NAMES[model_type]


def source(config: dict[str, Any], family: Family, whole: str | None = None) -> str:
    """The file for a model of this config.json. whole: type of the multimodal model whose text part it is, for a file
    that builds all of that."""
    fused, layers = 2 if len(family.gate_up) == 1 else 1, f"model.{KINDS[whole]}.layers" if whole else family.layers
    stock, base = class_names(whole or config["model_type"], whole is not None)
    names = {"layers": layers, "ffn": family.ffn, "gate_up": list(family.gate_up), "down": family.down}
    own_layers = layers.partition(".")[2]  # without the attribute that holds the model without a head
    names |= {"own_layers": own_layers, "stock": stock, "base": base}
    text = SOURCE.substitute(names, fused=fused, config="config.get_text_config()" if whole else "config")
    if whole:
        text = re.sub(r"^ *vllm.*\n", "", text.replace("ForCausalLM.", "ForImageTextToText."), count=1, flags=re.M)
        text = text.replace("from transformers import ", "from transformers import conversion_mapping, ", 1)
        text += RENAMED.substitute(names, kind=whole)
    for name in structures.others(config):
        code = STRUCTURES[name].code(config, family)
        text = re.sub(r"^( *)resize\((.*), (config.*)\)$", rf"\g<0>\n\1{code.name}(\2, \3)", text, flags=re.M)
        text = text.replace("says.", f"says, {code.says}.", 1) + code.text
    return text


def named(config: dict[str, Any], multimodal: bool = False) -> dict[str, Any]:
    """config.json that says so.

    vLLM's Transformers backend builds `AutoModel` and puts a head of its own on it: without an entry it would build the
    stock class, with one width for all layers."""
    module, auto = FILE.removesuffix(".py"), f"AutoModelFor{'ImageTextToText' if multimodal else 'CausalLM'}"
    stock, base = class_names(config["model_type"], multimodal)
    kinds = {"AutoModel": f"Pruned{base}", auto: f"Pruned{stock}"}
    auto_map = {auto: f"{module}.{kind}" for auto, kind in kinds.items()}
    return {**config, "architectures": [kinds[auto]], "auto_map": auto_map}


def trusted(directory: Path) -> bool:
    """Whether other tools need, and may be given, leave to run the code beside a model: only what `source` writes is.

    Raises InputError if a model that needs it brings other code along."""
    config = read_config(directory)
    if structures.is_stock(config):
        return False
    family = family_of(config, directory)
    own = config.get("auto_map") == named(config)["auto_map"]
    own &= [path.name for path in directory.rglob("*.py")] == [FILE]
    own = own and (directory / FILE).read_text(encoding="utf-8") == source(config, family)
    others = [file for file in directory.glob("*.json") if file.name != "config.json"]
    if not own or any(b'"auto_map"' in file.read_bytes() for file in others):
        raise InputError(
            f"{directory}: brings code that this version of the pipeline did not write, which is not run: delete the "
            "model and run again"
        )
    return True
