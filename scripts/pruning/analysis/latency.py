"""How fast models of one shape run, dense and with narrower FFNs: latency needs no trained weights, only shapes.

All variants are measured in turn in one process, in a new order every round, so that what drifts (clocks,
temperature, neighbours) hits all of them alike; the speed-up is that of paired rounds.
"""

import copy
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
import torch
from huggingface_hub.errors import StrictDataclassError
from numpy.typing import ArrayLike
from scipy import stats
from torch import nn
from tqdm import tqdm
from transformers import AutoConfig, PreTrainedModel
from transformers.configuration_utils import PretrainedConfig
from transformers.initialization import no_init_weights

from pruning.core.errors import InputError
from pruning.models import loading
from pruning.models.structures import ffn, kv_groups

# What a shape is made of: a missing one would silently be the default of another model.
REQUIRED = (
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
)
# Keys that transformers derives from others when they are absent, and writes into every config.json.
DERIVED = {"layer_types": {"num_hidden_layers"}, "head_dim": {"hidden_size", "num_attention_heads"}}


def configuration(raw: Mapping[str, Any], changes: Mapping[str, Any]) -> PretrainedConfig:
    """The dense model's config: `raw` (a config.json, may be empty) overridden by `changes`.

    What `raw` derived from keys that `changes` overrides is derived anew.
    Raises InputError if the shape is not whole, or is no dense model's."""
    stale = {key for key, sources in DERIVED.items() if sources & changes.keys()}
    merged = {**{key: value for key, value in raw.items() if key not in stale}, **changes}
    if missing := [key for key in REQUIRED if key not in merged]:
        raise InputError(
            f"latency: the architecture has no {', '.join(missing)}: give them in `changes`, or a config.json of a "
            "gated-FFN decoder"
        )
    if ffn.WIDTHS in merged:
        raise InputError("latency: the architecture has `ffn_widths`: give the dense model's config.json")
    try:
        return AutoConfig.for_model(**merged)
    except (ValueError, StrictDataclassError) as error:
        raise InputError(f"latency: transformers cannot build this architecture: {error}") from None


def check_widths(widths: Sequence[int], config: PretrainedConfig, source: object) -> None:
    """Raises InputError, naming `source`, unless these FFN widths, one a layer, can be cut from the dense model."""
    if len(widths) != config.num_hidden_layers:
        raise InputError(
            f"{source}: {len(widths)} FFN widths, but the architecture has num_hidden_layers {config.num_hidden_layers}"
        )
    if not all(0 <= width <= config.intermediate_size for width in widths):
        raise InputError(
            f"{source}: FFN widths from {min(widths)} to {max(widths)} are not cut from the architecture's "
            f"intermediate_size {config.intermediate_size}"
        )


def check_context(prompt_tokens: int, decode_tokens: int, config: PretrainedConfig) -> None:
    """Raises InputError if prompt and decoded tokens do not fit in the model's context."""
    context = config.max_position_embeddings
    if prompt_tokens + decode_tokens > context:
        raise InputError(
            f"prompt_tokens + decode_tokens: {prompt_tokens} + {decode_tokens} is longer than the architecture's "
            f"max_position_embeddings {context}: lower them"
        )


def choose_device(device: str) -> torch.device:
    """`cpu`, `cuda`, or `auto`: a GPU where there is one. Raises InputError on `cuda` without a GPU."""
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device: cuda, but torch sees no GPU here: use `auto` or `cpu`")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """What the table calls the hardware: the GPU's name, or the CPU's model name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def build(config: PretrainedConfig, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """The dense model with random weights, made on the device. Raises InputError if its FFNs are not gated ones."""
    model_class = loading.stock_class(config, "latency")
    with no_init_weights(), torch.device(device):
        model = model_class._from_config(config, dtype=dtype)
    model.tie_weights()  # which no_init_weights left out
    ffn.sites(model)  # refuses what has none
    return _randomised(model)


def narrowed(dense: PreTrainedModel, widths: Sequence[int], groups: Sequence[int] | None = None) -> PreTrainedModel:
    """A model with these FFN widths, one a layer, and so many key-value groups, in the dense model's memory.

    Its weights there are the beginnings of the dense ones (random either way), contiguous; all others are these."""
    shared = {id(tensor): tensor for tensor in (*dense.parameters(), *dense.buffers())}
    model = copy.deepcopy(dense, shared)
    with no_init_weights():
        for index, width in enumerate(widths):
            ffn.resize(model, {index: width})
            _lend(dense, model)
        if groups:
            kv_groups.resize(model, dict(enumerate(groups)))
            _lend(dense, model)
    return model.eval().requires_grad_(False)


def _lend(dense: PreTrainedModel, model: PreTrainedModel) -> None:
    """Let parameters that are not the dense model's be in its memory."""
    for parameter, whole in zip(model.parameters(), dense.parameters(), strict=True):
        if parameter is not whole:
            parameter.data = whole.data.flatten()[: parameter.numel()].view_as(parameter)


@torch.no_grad()
def _randomised(module: nn.Module) -> nn.Module:
    """Small normal weights, norms around one: activations stay ordinary numbers, as those of a trained model."""
    for name, parameter in module.named_parameters():
        nn.init.normal_(parameter, mean=float("norm" in name), std=0.02)
    return module.eval().requires_grad_(False)


def parameters(model: nn.Module) -> int:
    """Number of weights; tied ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def prefill_flops(
    config: PretrainedConfig, widths: Sequence[int], tokens: int, groups: Sequence[int] | None = None
) -> int:
    """FLOPs of the matrix products of one prefill of `tokens` tokens, with the LM head on the last position alone.

    widths: FFN width of each layer; groups: its key-value groups, all if None. A product of [a, b] and [b, c] counts
    2abc. Of the attention scores only the causal ones, T(T+1)/2, count, whatever a kernel computes beside them: the
    ratio of two variants' FLOPs, in which attention weighs as little as it can, then bounds the speed-up of a
    compute-bound prefill."""
    hidden, heads = config.hidden_size, config.num_attention_heads
    key_value_heads = getattr(config, "num_key_value_heads", None) or heads
    head_dim = getattr(config, "head_dim", None) or hidden // heads
    queries = heads // key_value_heads  # of a group
    projections = 2 * hidden * (queries + 1) * head_dim  # q and o, k and v
    scores = 2 * queries * head_dim * (tokens * (tokens + 1) // 2)  # QK' and its product with V
    attention = [(tokens * projections + scores) * count for count in groups or [key_value_heads] * len(widths)]
    return 2 * (sum(attention) + 3 * hidden * tokens * sum(widths) + hidden * config.vocab_size)


def speedup(
    dense_times: ArrayLike, times: ArrayLike, confidence: float, resamples: int, seed: int
) -> tuple[float, float, float]:
    """Median of the rounds' ratios dense/variant with its percentile bootstrap interval: (median, low, high).

    Args: seconds of shape (rounds,), paired by round. A single round has no interval (NaN).
    Raises ValueError on unequal lengths and on times that are not above zero.
    Source: Efron and Tibshirani (1993), "An introduction to the bootstrap", chapter 13; scipy.stats.bootstrap.
    """
    dense_times, times = np.asarray(dense_times, dtype=float), np.asarray(times, dtype=float)
    if dense_times.ndim != 1 or dense_times.shape != times.shape or not len(times):
        raise ValueError(f"expected two vectors of equal length, got shapes {dense_times.shape} and {times.shape}")
    if not ((dense_times > 0).all() and (times > 0).all()):
        raise ValueError("times must be above zero")
    ratios = dense_times / times
    median = float(np.median(ratios))
    if len(ratios) == 1:
        return median, np.nan, np.nan
    interval = stats.bootstrap(
        (ratios,),
        np.median,
        vectorized=True,
        method="percentile",
        confidence_level=confidence,
        n_resamples=resamples,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return median, float(interval.low), float(interval.high)


def timings(samples: pd.DataFrame, variant: str, settings: Mapping[str, Any]) -> dict[str, float]:
    """What was measured of one variant, as columns: medians, and speed-ups over `dense` with their intervals.

    samples: of `measure`, pivoted: `variant` as columns. settings: `decode_tokens`, `confidence`, `resamples` and
    `seed`."""

    def speedups(part: str) -> dict[str, float]:
        times, key = samples[f"{part}_s"], f"{part}_speedup"
        own = times[variant].dropna()  # of the rounds that it was in
        chance = (settings["confidence"], settings["resamples"], settings["seed"])
        values = speedup(times["dense"][own.index], own, *chance)
        return dict(zip((key, f"{key}_low", f"{key}_high"), values, strict=True))

    return {
        "prefill_s": samples["prefill_s"][variant].median(),
        **speedups("prefill"),
        "decode_tokens_per_s": settings["decode_tokens"] / samples["decode_s"][variant].median(),
        **speedups("decode"),
        "peak_memory_mb": samples["peak_memory_mb"][variant].max(),
    }


def measure(
    models: Mapping[str, PreTrainedModel],
    prompt_tokens: int,
    decode_tokens: int,
    rounds: int,
    warmup: int,
    seed: int,
) -> pd.DataFrame:
    """Time every model once a round, in an order that each round shuffles; `warmup` rounds go before and don't count.

    Returns in the order of measurement: round, variant, prefill_s (the prompt in one forward, until the last
    position's logits), decode_s (`decode_tokens` greedy tokens one by one, with the KV cache), peak_memory_mb
    (10^6 bytes that the model would need alone; NaN on a CPU, where resident memory cannot be told apart)."""
    rng = np.random.default_rng(seed)
    any_model = next(iter(models.values()))
    prompt = torch.from_numpy(rng.integers(any_model.config.vocab_size, size=(1, prompt_tokens))).to(any_model.device)
    rows = []
    for number in tqdm(range(-warmup, rounds), "rounds", mininterval=5):
        for variant in rng.permutation(list(models)).tolist():
            row = _once(models[variant], prompt, decode_tokens)
            if number >= 0:
                rows.append({"round": number, "variant": variant, **row})
    return pd.DataFrame(rows)


@torch.inference_mode()
def _once(model: PreTrainedModel, prompt: torch.Tensor, decode_tokens: int) -> dict[str, float]:
    """One prefill and what is decoded after it; nothing of it stays in memory."""

    def decode() -> None:
        logits = prefilled.logits
        for _ in range(decode_tokens):
            token = logits[:, -1].argmax(-1, keepdim=True)
            logits = model(input_ids=token, cache=prefilled.cache, use_cache=True, logits_to_keep=1).logits

    on_gpu = prompt.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        others = torch.cuda.memory_allocated() - sum(
            tensor.nbytes for tensor in (*model.parameters(), *model.buffers())
        )
    prefilled, prefill_s = _timed(lambda: model(input_ids=prompt, use_cache=True, logits_to_keep=1), on_gpu)
    _, decode_s = _timed(decode, on_gpu)
    peak = (torch.cuda.max_memory_allocated() - others) / 1e6 if on_gpu else np.nan
    return {"prefill_s": prefill_s, "decode_s": decode_s, "peak_memory_mb": peak}


def _timed(work: Callable[[], Any], on_gpu: bool) -> tuple[Any, float]:
    """What `work` returns, and the seconds it took: by device events on a GPU, which `work` only queues onto."""
    if not on_gpu:
        start = perf_counter()
        return work(), perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    result = work()
    end.record()
    end.synchronize()
    return result, begin.elapsed_time(end) / 1000
