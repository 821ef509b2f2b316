"""The one loader: dense, uniform and non-uniform models, on CPU, one GPU or several."""

from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.configuration_utils import PretrainedConfig

from pruning.core import memory
from pruning.core.errors import InputError
from pruning.models.checkpoint import DOWN_BIAS


def load(
    directory: Path, dtype: str, device: str = "auto", adapter: Path | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model in eval mode with frozen weights, and its tokenizer, padding on the left for generation.

    `adapter`: directory of a LoRA adapter, merged into the weights.
    `device`: `cpu`, `cuda`, or `auto`: the visible GPUs, over which a model bigger than one is spread, else the CPU.

    Raises InputError if the CPU's free memory cannot hold the weights."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        check_memory(directory, dtype)
    device_map = "auto" if device == "cuda" and torch.cuda.device_count() > 1 else device
    model = model_class(directory).from_pretrained(
        directory,
        config=stock_config(directory),
        dtype=getattr(torch, dtype),
        device_map=device_map,
        use_safetensors=True,
    )
    if adapter is not None:
        from peft import PeftModel  # slow, and unneeded for the others

        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    tokenizer = AutoTokenizer.from_pretrained(directory, padding_side="left")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model.eval().requires_grad_(False), tokenizer


def check_memory(directory: Path, dtype: str) -> None:
    """Raises InputError if the weights alone are more than what is free: else the kernel would kill the job."""
    needed, free = memory.gigabytes(memory.parameters(directory), dtype), memory.available()
    if free is not None and needed > free / 1e9:
        smaller = "use dtype bfloat16, " if memory.BYTES[dtype] > 2 else ""
        raise InputError(
            f"model {directory} needs {needed:.2f} GB in {dtype}, {free / 1e9:.2f} GB of memory are free: {smaller}run "
            "fewer jobs at once (raise the model's memory_gb), or use a machine with more memory"
        )


def stock_config(directory: Path) -> PretrainedConfig:
    """The model's config without `per_layer_config`, which transformers (5.24) reads but cannot build from."""
    raw, _ = PretrainedConfig.get_config_dict(directory)
    raw.pop("per_layer_config", None)
    return AutoConfig.for_model(**raw)


def layer_widths(directory: Path) -> dict[int, int]:
    """FFN widths of the layers that `per_layer_config` names; empty for a stock model."""
    raw, _ = PretrainedConfig.get_config_dict(directory)
    return {int(layer): own["intermediate_size"] for layer, own in (raw.get("per_layer_config") or {}).items()}


def has_down_bias(directory: Path) -> bool:
    """Whether every down_proj has a bias that the stock class has no slot for (`compensate: bias`)."""
    raw, _ = PretrainedConfig.get_config_dict(directory)
    return bool(raw.get(DOWN_BIAS))


def model_class(directory: Path) -> type[PreTrainedModel]:
    """The stock class, or a subclass whose FFNs have their own widths and biases, so that loading stays transformers'
    own."""
    stock = stock_class(stock_config(directory), directory)
    widths, biased = layer_widths(directory), has_down_bias(directory)
    if not widths and not biased:
        return stock

    def own(self, config: PretrainedConfig) -> None:
        stock.__init__(self, config)
        resize(self, widths)
        if biased:
            add_down_bias(self)

    return type(stock.__name__, (stock,), {"__init__": own, "__module__": stock.__module__})


def stock_class(config: PretrainedConfig, source: object) -> type[PreTrainedModel]:
    """transformers' class for this config. Raises InputError, naming `source`, if it is no causal language model."""
    try:
        return AutoModelForCausalLM._model_mapping[type(config)]
    except KeyError:
        raise InputError(f"{source}: model type {config.model_type!r} is no causal language model") from None


def resize(model: PreTrainedModel, widths: Mapping[int, int]) -> None:
    """Give the FFNs of these layers new weights of these widths, on the device and in the dtype of the old ones."""
    for layer, width in widths.items():
        mlp = model.model.layers[layer].mlp
        for name in ("gate_proj", "up_proj", "down_proj"):
            old = getattr(mlp, name)
            shape = (width, old.out_features) if name == "down_proj" else (old.in_features, width)
            new = torch.nn.Linear(*shape, bias=old.bias is not None, dtype=old.weight.dtype, device=old.weight.device)
            setattr(mlp, name, new)
        mlp.intermediate_size = width


def add_down_bias(model: PreTrainedModel) -> None:
    """Give every down_proj a bias, new, on the device and in the dtype of the weights, which stay."""
    for layer in model.model.layers:
        down = layer.mlp.down_proj
        down.bias = torch.nn.Parameter(torch.zeros_like(down.weight[:, 0]))
