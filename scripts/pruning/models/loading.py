"""The one loader: dense, uniform and non-uniform models, on CPU, one GPU or several."""

import math
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.configuration_utils import PretrainedConfig

from pruning.core import artifacts, memory
from pruning.core.errors import InputError
from pruning.models import complete
from pruning.models.structures import ffn


def load(
    directory: Path, dtype: str, device: str = "auto", adapter: Path | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model in eval mode with frozen weights, and its tokenizer, padding on the left for generation.

    `adapter`: directory of a LoRA adapter, merged into the weights.
    `device`: `cpu`, `cuda`, or `auto`: the visible GPUs, over which a model bigger than one is spread, else the CPU.

    Raises InputError if free memory cannot hold the weights, if the directory lacks some of them, or holds
    others than its manifest says."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    artifacts.check_model(directory)
    check_memory(directory, dtype, device)
    device_map = "auto" if device == "cuda" and torch.cuda.device_count() > 1 else device
    model, found = model_class(directory).from_pretrained(
        directory,
        config=stock_config(directory),
        dtype=getattr(torch, dtype),
        device_map=device_map,
        use_safetensors=True,
        **complete.LOADING,
    )
    complete.refuse(directory, found)
    if adapter is not None:
        model = merged(model, adapter)
    tokenizer = AutoTokenizer.from_pretrained(directory, padding_side="left")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model.eval().requires_grad_(False), tokenizer


def merged(model: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    """With a LoRA adapter in its weights, frozen, in eval mode."""
    from peft import PeftModel  # slow, and unneeded where there is none

    return PeftModel.from_pretrained(model, adapter).merge_and_unload().eval().requires_grad_(False)


def check_memory(directory: Path, dtype: str, device: str = "cpu") -> None:
    """Raises InputError if the weights alone are more than what is free: else the kernel would kill the job, or half of
    the model would already lie on the GPU."""
    needed = memory.gigabytes(memory.parameters(directory), dtype)
    smaller = "use dtype bfloat16, " if memory.BYTES[dtype] > 2 else ""
    if device == "cuda":
        cards = [torch.cuda.mem_get_info(card)[0] / 1e9 for card in range(torch.cuda.device_count())]
        if needed > sum(cards):
            enough = math.ceil(needed / max(cards)) if max(cards) > 0 else "more"
            raise InputError(
                f"model {directory} needs {needed:.2f} GB in {dtype}, {sum(cards):.2f} GB are free on "
                f"{len(cards)} GPU(s): {smaller}set the model's `gpus` to {enough} or more, or see what else runs there"
            )
        return
    free = memory.available()
    if free is not None and needed > free / 1e9:
        raise InputError(
            f"model {directory} needs {needed:.2f} GB in {dtype}, {free / 1e9:.2f} GB of memory are free: {smaller}run "
            "fewer jobs at once (raise the model's memory_gb), or use a machine with more memory"
        )


def stock_config(directory: Path) -> PretrainedConfig:
    """The model's config; code that it names is not run."""
    raw, _ = PretrainedConfig.get_config_dict(directory)
    raw.pop("auto_map", None)
    return AutoConfig.for_model(**raw)


def model_class(directory: Path) -> type[PreTrainedModel]:
    """The stock class, or a subclass whose FFNs have their own widths and biases, so that loading stays transformers'
    own."""
    stock = stock_class(stock_config(directory), directory)
    raw, _ = PretrainedConfig.get_config_dict(directory)
    widths, biased = ffn.widths_of(raw), raw.get(ffn.DOWN_BIAS)
    if not widths and not biased:
        return stock

    def own(self, config: PretrainedConfig) -> None:
        stock.__init__(self, config)
        ffn.resize(self, widths)
        if biased:
            ffn.add_down_bias(self)

    return type(stock.__name__, (stock,), {"__init__": own, "__module__": stock.__module__})


def stock_class(config: PretrainedConfig, source: object) -> type[PreTrainedModel]:
    """transformers' class for this config. Raises InputError, naming `source`, if it is no causal language model."""
    try:
        return AutoModelForCausalLM._model_mapping[type(config)]
    except KeyError:
        raise InputError(f"{source}: model type {config.model_type!r} is no causal language model") from None
