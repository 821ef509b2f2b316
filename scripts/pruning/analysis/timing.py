"""How fast models are: the one clock of the project, and the three things that it measures.

Models are timed in turn in one process, in a new order every repetition, so that what drifts (clocks, temperature,
neighbours) hits all of them alike; a speed-up is the median ratio of times of the same repetition.
"""

import platform
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from scipy import stats
from torch.utils.benchmark import timer  # waits for what was queued onto a GPU
from tqdm import tqdm
from transformers import PreTrainedModel
from transformers.configuration_utils import PretrainedConfig

from pruning.analysis import shapes
from pruning.core.errors import InputError
from pruning.methods import variants
from pruning.methods.allocation import kept, levels
from pruning.methods.budget import COUNTED, Cost, Sizes
from pruning.methods.masks import NEURONS
from pruning.models import loading
from pruning.models.checkpoint import Checkpoint, read_config
from pruning.models.families import family_of
from pruning.models.structures import STRUCTURES
from pruning.models.vocabulary import Tokenizer

Settings = Mapping[str, Any]
"""Of every clock: `prompt_tokens`, `decode_tokens`, `rounds` (repetitions), `warmup`, `seed`; of speed-ups, too:
`confidence` and `resamples`."""
Parts = Mapping[str, variants.Parts]  # Variant -> what it is made of
Units = Mapping[str, tuple[int, ...]]  # Structure -> units of each layer (shapes.narrowed)
PARTS = ("prefill", "decode")
ENDS = ("", "_low", "_high")

# The clock -----------------------------------------------------------------------------------------------------------


def check_context(settings: Settings, config: PretrainedConfig) -> None:
    """Raise InputError if prompt and decoded tokens do not fit in the model's context."""
    prompt, decoded, context = settings["prompt_tokens"], settings["decode_tokens"], config.max_position_embeddings
    if prompt + decoded > context:
        raise InputError(
            f"prompt_tokens + decode_tokens: {prompt} + {decoded} is longer than the architecture's "
            f"max_position_embeddings {context}: lower them"
        )


def measure(models: Mapping[str, PreTrainedModel], settings: Settings) -> pd.DataFrame:
    """Time every model once per repetition, in an order that each shuffles; `warmup` of them go before and don't count.

    Returns in the order of measurement: round, variant, prefill_s (the prompt in one forward, until the last position's
    logits), decode_s (`decode_tokens` greedy tokens one by one, with the KV cache), peak_memory_mb (10^6 bytes that the
    model would need alone; NaN on a CPU, where resident memory cannot be told apart)."""
    rng = np.random.default_rng(settings["seed"])
    model = next(iter(models.values()))
    least = min(own.config.vocab_size for own in models.values())
    prompt = rng.integers(least, size=(settings.get("batch", 1), settings["prompt_tokens"]))
    prompt = torch.from_numpy(prompt).to(model.device)
    return in_turn(models, settings, lambda model: _once(model, prompt, settings["decode_tokens"]), rng)


def in_turn(
    models: Mapping[str, Any],
    settings: Settings,
    once: Callable[[Any], dict[str, float]],
    rng: np.random.Generator | None = None,
) -> pd.DataFrame:
    """Measure every model once per repetition by `once`, as `measure` does: round, variant, and what that returns."""
    rng, rows = rng or np.random.default_rng(settings["seed"]), []
    for number in tqdm(range(-settings["warmup"], settings["rounds"]), "rounds", mininterval=5):
        for variant in rng.permutation(list(models)).tolist():
            row = once(models[variant])
            if number >= 0:
                rows.append({"round": number, "variant": variant, **row})
    return pd.DataFrame(rows)


@torch.inference_mode()
def _once(model: PreTrainedModel, prompt: torch.Tensor, decode_tokens: int) -> dict[str, float]:
    """Time one prefill and what is decoded after it; nothing of it stays in memory."""
    on_gpu = prompt.device.type == "cuda"
    cards = range(torch.cuda.device_count() if on_gpu else 0)
    for card in cards:
        torch.cuda.reset_peak_memory_stats(card)
    own = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    others = sum(map(torch.cuda.memory_allocated, cards)) - own
    begin = timer()
    found = model(input_ids=prompt, use_cache=True, logits_to_keep=1)
    prefilled = timer()
    for _ in range(decode_tokens):
        token = found.logits[:, -1].argmax(-1, keepdim=True)
        found = model(input_ids=token, cache=found.cache, use_cache=True, logits_to_keep=1)
    end = timer()
    peak = (sum(map(torch.cuda.max_memory_allocated, cards)) - others) / 1e6 if on_gpu else np.nan
    return {"prefill_s": prefilled - begin, "decode_s": end - prefilled, "peak_memory_mb": peak}


def speedup(
    dense_times: ArrayLike, times: ArrayLike, confidence: float, resamples: int, seed: int
) -> tuple[float, float, float]:
    """Return the median of the ratios dense/variant with its percentile bootstrap interval: (median, low, high).

    Args: seconds of shape (repetitions,), paired. A single repetition has no interval (NaN).
    Source: Efron and Tibshirani (1993), "An introduction to the bootstrap", chapter 13; scipy.stats.bootstrap.
    """
    ratios = np.asarray(dense_times, dtype=float) / np.asarray(times, dtype=float)
    median = float(np.median(ratios))
    if len(ratios) == 1:
        return median, np.nan, np.nan
    how = {"method": "percentile", "confidence_level": confidence, "n_resamples": resamples}
    found = stats.bootstrap((ratios,), np.median, vectorized=True, rng=np.random.default_rng(seed), **how)
    return median, float(found.confidence_interval.low), float(found.confidence_interval.high)


def by_variant(samples: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return what `measure` does as one table per variant, a row per repetition."""
    return {variant: rows.drop(columns="variant").set_index("round") for variant, rows in samples.groupby("variant")}


def timings(own: pd.DataFrame, dense: pd.DataFrame, settings: Settings) -> dict[str, float]:
    """Return what was measured of one variant, as columns: medians, and speed-ups over the dense model with intervals.

    own, dense: of the variant and of the dense model, by `by_variant`, in the same repetitions."""
    chance = [settings[key] for key in ("confidence", "resamples", "seed")]

    def speedups(part: str) -> dict[str, float]:
        ends = speedup(dense[f"{part}_s"], own[f"{part}_s"], *chance)
        return {f"{part}_speedup{end}": value for end, value in zip(ENDS, ends, strict=True)}

    return {
        "prefill_s": own["prefill_s"].median(),
        **speedups("prefill"),
        "decode_tokens_per_s": settings["decode_tokens"] / own["decode_s"].median(),
        **speedups("decode"),
        "peak_memory_mb": own["peak_memory_mb"].max(),
    }


def conditions(device: torch.device, settings: Settings) -> dict[str, Any]:
    """Return what times hold under, as columns."""
    own = {"device": device_name(device), "dtype": settings["dtype"], "threads": torch.get_num_threads()}
    return {**own, **{key: settings[key] for key in ("prompt_tokens", "decode_tokens", "rounds")}}


def device_name(device: torch.device) -> str:
    """Return what a table calls the hardware: the GPU's name, or the CPU's model name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


# What is measured ----------------------------------------------------------------------------------------------------


def first_of(outlines: Mapping[Any, Hashable]) -> dict[Any, Any]:
    """Label -> the first label of an equal outline: models of one outline run the same arithmetic, and one is timed for
    all, so that they do not differ by the noise of a clock."""
    first: dict[Hashable, Any] = {}
    return {label: first.setdefault(outline, label) for label, outline in outlines.items()}


def of_models(parts: Parts, settings: Settings) -> pd.DataFrame:
    """Time the very models of tables, each in turn with the dense one and no third in memory: one row per variant.

    Columns: model, variant, parameters, bytes, timed (the variant that was), those of `conditions` and `timings`."""
    timed = first_of({label: own.outline() for label, own in parts.items()})
    dense, _ = parts["dense"].load(settings["dtype"])
    check_context(settings, dense.config)
    pairs = {}
    for number, label in enumerate(label for label in dict.fromkeys(timed.values()) if label != "dense"):
        pair = {"dense": dense, label: parts[label].load(settings["dtype"])[0]}
        pairs[label] = by_variant(measure(pair, {**settings, "seed": settings["seed"] + number}))
        del pair
    pairs["dense"] = {"dense": pd.concat([pair["dense"] for pair in pairs.values()])}
    rows = []
    for label, own in parts.items():
        size = {"parameters": own.pruned()["parameters_kept"], "bytes": own.stored()}
        row = {"model": settings["model"], "variant": label, **size, "timed": timed[label]}
        pair = pairs[timed[label]]
        found = timings(pair[timed[label]], pair["dense"], settings)
        rows.append({**row, **conditions(dense.device, settings), **found})
    return pd.DataFrame(rows)


def in_one_memory(
    config: PretrainedConfig, outlines: Mapping[str, Units], settings: Settings
) -> tuple[dict[str, PreTrainedModel], dict[str, pd.DataFrame]]:
    """Build models with random weights, all in the memory of the `dense` one, and time all of them in turn.

    Returns the models, and their repetitions, by label; those of equal units share both. Raises InputError as
    `check_context` and shapes.build do."""
    check_context(settings, config)
    timed = first_of({label: tuple(units.items()) for label, units in outlines.items()})
    dense = shapes.build(config, settings["dtype"], settings["device"])
    others = [label for label in dict.fromkeys(timed.values()) if label != "dense"]
    models = {"dense": dense, **{label: shapes.narrowed(dense, outlines[label]) for label in others}}
    samples = by_variant(measure(models, settings))
    return tuple({label: found[first] for label, first in timed.items()} for found in (models, samples))


def of_shapes(parts: Parts, settings: Settings) -> pd.DataFrame:
    """Time models of one shape with random weights, dense and narrower, all of them in turn: one row per variant.

    parts: of pruned models, of which the masks are read, and of the dense one, unless the settings have a whole
    `config`. Settings: `shape` (its name), `sparsities` of equal widths, `padded` (variants as wide everywhere as their
    widest layer). Columns: shape, variant, sparsity (of the FFNs), parameters, flop_ratio (the dense model's FLOPs over
    these), those of `conditions` and `timings`."""
    config = shapes.configuration(settings["config"] or read_config(parts["dense"].model))
    full, layers = config.intermediate_size, config.num_hidden_layers
    outlines = {"dense": {NEURONS: (full,) * layers}}
    for sparsity in settings["sparsities"]:
        outlines[f"uniform/{sparsity}"] = {NEURONS: (int(kept(full, sparsity)),) * layers}
    for label in [label for label in parts if label != "dense"]:
        outlines[label] = dict(parts[label].outline()[0])
        if label in settings["padded"]:
            outlines[label][NEURONS] = (max(outlines[label][NEURONS]),) * layers
    models, samples = in_one_memory(config, outlines, settings)
    rows, flops = [], []
    for label, units in outlines.items():
        row = {"shape": settings["shape"], "variant": label, "sparsity": 1 - sum(units[NEURONS]) / (full * layers)}
        row |= conditions(models["dense"].device, settings) | {"parameters": models[label].num_parameters()}
        rows.append({**row, **timings(samples[label], samples["dense"], settings)})
        flops.append(shapes.prefill_flops(models[label], settings["prompt_tokens"]))
    table = pd.DataFrame(rows)
    table.insert(table.columns.get_loc("decode_tokens_per_s"), "flop_ratio", flops[0] / np.array(flops))
    return table


def of_units(parts: Parts, settings: Settings) -> pd.DataFrame:
    """Time models with random weights that have so many units of one structure in every layer and all of the others, in
    turn: one row per structure and number of units (methods/latency_table.py).

    parts: of the `dense` model; of a pruned one its whole shape. Columns: structure, units; `flops` of a prefill;
    `prefill` and `decode`, seconds of the prompt and of a token after it: the median ratio to the dense model's time,
    times the median of that. Widths are sixteenths of the dense one, from none; other units from one, where there are
    any that can be cut."""
    raw = shapes.unpruned(read_config(parts["dense"].model))
    config = shapes.configuration(raw)
    full, layers = config.intermediate_size, config.num_hidden_layers
    outlines = {"dense": {NEURONS: (full,) * layers}}
    outlines |= {f"{NEURONS}/{width}": {NEURONS: (width,) * layers} for width in (full, *levels(full, 0))}
    for name in [name for name in STRUCTURES if name != NEURONS]:
        try:
            STRUCTURES[name].modules(family_of(raw, parts["dense"].model))
            whole = STRUCTURES[name].whole(config.to_dict())
        except InputError:  # none that can be cut
            continue
        for count in range(1, whole + 1):
            cut = {name: (count,) * layers} if count < whole else {}
            outlines[f"{name}/{count}"] = outlines["dense"] | cut
    models, samples = in_one_memory(config, outlines, settings)
    dense, rows = samples["dense"], []
    for label in list(outlines)[1:]:
        structure, units = label.split("/")
        flops = shapes.prefill_flops(models[label], settings["prompt_tokens"])
        seconds = {part: (samples[label] / dense)[f"{part}_s"].median() * dense[f"{part}_s"].median() for part in PARTS}
        seconds["decode"] /= settings["decode_tokens"]
        rows.append({"structure": structure, "units": int(units), "flops": flops, **seconds})
    return pd.DataFrame(rows).sort_values(["structure", "units"], ignore_index=True)


class Candidates:
    """Milliseconds of the models that a dense one may be pruned to, each measured once and in turn with it."""

    def __init__(self, model: PreTrainedModel, kind: str, biased: bool, settings: Settings, tokens: int | None = None):
        """kind: `prefill_ms` or `decode_ms`. biased, tokens: as in shapes.narrowed. settings: with `dtype`. Raises
        InputError as `check_context` does."""
        self.model, self.part, self.biased, self.tokens = model, kind.removesuffix("_ms"), biased, tokens
        tokens = settings["decode_tokens"] if self.part == "decode" else 1
        self.settings = {**settings, "decode_tokens": tokens}
        check_context(self.settings, model.config)
        alone = measure({"dense": model}, self.settings)[f"{self.part}_s"].median()
        self.dense = 1000 * float(alone) / tokens
        self.notes = conditions(model.device, self.settings) | {"confidence": settings["confidence"]}
        self.known: dict[Hashable, Cost] = {}

    def cost(self, units: Units) -> Cost:
        """Return the time of a prompt, or of a token after it: the dense model's by the speed-up."""
        if (key := tuple(units.items())) not in self.known:
            pruned = shapes.narrowed(self.model, units, self.biased, self.tokens)
            own = {**self.settings, "seed": self.settings["seed"] + len(self.known) + 1}
            samples = by_variant(measure({"dense": self.model, "pruned": pruned}, own))
            found = timings(samples["pruned"], samples["dense"], self.settings)
            ends = (self.dense / found[f"{self.part}_speedup{end}"] for end in ("", "_high", "_low"))
            self.known[key] = Cost(*ends)
        return self.known[key]


def candidates(folder: Path, kind: str, biased: bool, settings: Settings) -> Candidates | Sizes:
    """Return what gives the costs of what a dense model may be pruned to: times are measured, and others counted.

    folder: the model's. kind: of a budget. Raises InputError as Candidates and Tokenizer.budget do."""
    tokens = Tokenizer(folder).budget(settings["vocabulary"]) if "vocabulary" in settings else None
    if kind in COUNTED:
        return Sizes(Checkpoint(folder), kind, biased, tokens)
    return Candidates(loading.load(folder, settings["dtype"])[0], kind, biased, settings, tokens)


CLOCKS = {"tradeoff": of_models, "latency": of_shapes, "latency_table": of_units}
"""By the section of the configuration that says how they measure."""
