"""The one loader: dense, uniform and non-uniform models, on CPU, one GPU or several."""

import gc
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.configuration_utils import PretrainedConfig

from pruning.core import artifacts, files, memory
from pruning.core.errors import InputError
from pruning.models import complete, sources, tokenizers
from pruning.models.families import DOWN_BIAS, read_config
from pruning.models.structures import STRUCTURES, ffn, listed


def load(
    directory: Path,
    dtype: str,
    device: str = "auto",
    adapter: Path | None = None,
    device_map: Mapping[str, str] | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model in eval mode with frozen weights, and its tokenizer, padding on the left for generation.

    `adapter`: directory of a LoRA adapter, merged into the weights.
    `device`: `cpu`, `cuda`, or `auto`: the visible GPUs, over which a model bigger than one is spread, else the CPU.
    `device_map`: module -> device, instead of that, for a model whose memory was looked at (models/offload.py).

    Raises InputError if free memory cannot hold the weights, if the directory lacks some of them, or holds
    others than its manifest says; so of the adapter."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    sources.refuse_adapter(directory)
    artifacts.check_model(directory)
    scratch = tempfile.TemporaryDirectory(prefix="layers-") if device_map else None
    if device_map is None:
        check_memory(directory, dtype, device)
        device_map = "auto" if device == "cuda" and torch.cuda.device_count() > 1 else device
    model, found = model_class(directory).from_pretrained(
        directory,
        config=stock_config(directory),
        dtype=getattr(torch, dtype),
        device_map=device_map,
        offload_folder=scratch and scratch.name,  # of matrices that are stored otherwise than they are computed with
        use_safetensors=True,
        **complete.LOADING,
    )
    model.scratch = scratch  # which is removed with the model
    complete.refuse(directory, found)
    if adapter is not None:
        model = merged(model, adapter)
    return model.eval().requires_grad_(False), tokenizers.load(directory)


def generation_config(directory: Path) -> GenerationConfig:
    """A model's generation settings, as transformers has them when it loads the model."""
    if (directory / "generation_config.json").exists():
        return GenerationConfig.from_pretrained(directory)
    return GenerationConfig.from_model_config(stock_config(directory))


def merged(model: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    """With a LoRA adapter in its weights, frozen, in eval mode. Raises InputError if that is not as it was made."""
    from peft import PeftModel  # slow, and unneeded where there is none

    artifacts.check_model(adapter)
    # else peft takes a GPU for the adapter, if there is one, of a job on the CPU too
    whole = PeftModel.from_pretrained(model, adapter, torch_device=str(model.device))
    return whole.merge_and_unload().eval().requires_grad_(False)


def free_memory(device: str = "auto") -> tuple[list[float], bool]:
    """Gigabytes that are free on each visible GPU, or on the one that is named, or of the machine's memory (none where
    that is not known), and whether they are GPUs'."""
    if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()):
        gc.collect()  # models on several GPUs, and lm-eval's, are in cycles
        torch.cuda.empty_cache()  # what torch keeps for later is free as well
        one = device.partition(":")[2]
        cards = [int(one)] if one else range(torch.cuda.device_count())
        return [torch.cuda.mem_get_info(card)[0] / 1e9 for card in cards], True
    free = memory.available()
    return ([] if free is None else [free / 1e9]), False


def check_memory(directory: Path, dtype: str, device: str = "cpu") -> None:
    """Raises InputError if the weights alone are more than what is free: else the kernel would kill the job, or half of
    the model would already lie on the GPU."""
    needed = memory.gigabytes(memory.parameters(directory), dtype)
    smaller = "use dtype bfloat16, " if memory.BYTES[dtype] > 2 else ""
    free, on_gpus = free_memory(device)
    if free and needed > sum(free):
        raise InputError(f"model {directory} needs {needed:.2f} GB in {dtype}, {lack(needed, free, on_gpus, smaller)}")


def lack(needed: float, free: list[float], on_gpus: bool, smaller: str) -> str:
    """What is free (GB of each GPU, or of the machine), and what would help; `smaller`: what first."""
    if not on_gpus:
        return (
            f"{free[0]:.2f} GB of memory are free: {smaller}run fewer jobs at once (raise the model's memory_gb), or "
            "use a machine with more memory"
        )
    enough = math.ceil(needed / max(free)) if max(free) > 0 else "more"
    return (
        f"{sum(free):.2f} GB are free on {len(free)} GPU(s): {smaller}set the model's `gpus` to {enough} or more, or "
        "see what else runs there"
    )


def stock_config(directory: Path) -> PretrainedConfig:
    """The model's config; code that it names is not run."""
    raw = read_config(directory)
    raw.pop("auto_map", None)
    with files.reading(directory / "config.json"):
        return AutoConfig.for_model(**raw)


def model_class(directory: Path) -> type[PreTrainedModel]:
    """The stock class, or a subclass whose layers have the units and biases that config.json lists, so that loading
    stays transformers' own."""
    stock = stock_class(stock_config(directory), directory)
    raw = read_config(directory)
    own_units, biased = listed(raw), raw.get(DOWN_BIAS)
    if not own_units and not biased:
        return stock

    def own(self, config: PretrainedConfig) -> None:
        stock.__init__(self, config)
        for name, units in own_units.items():
            STRUCTURES[name].resize(self, units)
        if biased:
            ffn.add_down_bias(self)

    return type(stock.__name__, (stock,), {"__init__": own, "__module__": stock.__module__})


def stock_class(config: PretrainedConfig, source: object) -> type[PreTrainedModel]:
    """transformers' class for this config. Raises InputError, naming `source`, if it is no causal language model."""
    try:
        return AutoModelForCausalLM._model_mapping[type(config)]
    except KeyError:
        raise InputError(f"{source}: model type {config.model_type!r} is no causal language model") from None
