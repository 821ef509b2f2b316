"""What jobs compute and move that no rehearsal of a stage counts (models/rehearsal.py): answers, refits, measured cuts.

A matrix of p parameters costs 2p floating-point operations a token. A token that is generated needs all weights read
once a step, whatever the batch, and the keys and values of each row. That bounds real time from below: attention's
scores, norms and start-ups are left out.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import nn

from pruning.core import names
from pruning.core.errors import InputError
from pruning.evaluation import generation
from pruning.methods.allocation import LEVELS
from pruning.models import families
from pruning.models.rehearsal import Taken, rehearsed
from pruning.models.structures import ffn

SIZES = names.HOME / "resources/task_sizes.csv"  # items of published test sets; tokens an item, by Qwen2.5's tokenizer
SAME_ANSWERS = ("num_fewshot", "shared_examples", "chat_template", "max_gen_toks")


class Card(NamedTuple):
    """A device by its data sheet (dense bfloat16), and the share of its speed that is counted on."""

    tflops: float
    gbps: float
    gb: float
    """Of memory, less half a gigabyte for CUDA itself."""
    share: float = 0.4

    def seconds(self, flops: float, moved: float = 0) -> float:
        """moved: bytes that are read to generate, one token at a time."""
        return (flops / (self.tflops * 1e12) + moved / (self.gbps * 1e9)) / self.share


CARDS = {
    "rtx4090": Card(165, 1008, 25.2),
    "a100": Card(312, 2039, 85.3),
    "h100": Card(989, 3350, 85.3),
    "h200": Card(989, 4800, 150),
}


class Shape(NamedTuple):
    """A dense model in numbers: parameters of its decoder layers, its head and its FFNs; layers; neurons of an FFN;
    residual stream; bytes of a parameter; keys and values of a token, in numbers; bytes of all weights."""

    matrices: int
    head: int
    ffn: int
    layers: int
    width: int
    hidden: int
    size: int
    cached: int
    weights: int

    def kept(self, sparsity: float) -> int:
        """Parameters of the layers when this share of the FFN neurons is gone."""
        return round(self.matrices - sparsity * self.ffn)

    def forward(self, tokens: float, logits: float, sparsity: float = 0) -> float:
        """Operations of tokens in large batches, of which so many need the head."""
        return 2 * (self.kept(sparsity) * tokens + self.head * logits)


def shape_of(network: nn.Module) -> Shape:
    layers, sites, config = families.decoder_layers(network), ffn.sites(network), network.config.get_text_config()
    head, down = network.get_output_embeddings().weight, sites[0]
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return Shape(
        sum(parameter.numel() for layer in layers for parameter in layer.parameters()),
        head.numel(),
        sum(3 * site.weight.numel() for site in sites),
        *(len(layers), down.in_features, down.out_features, head.element_size()),
        2 * len(layers) * heads * size,
        network.get_memory_footprint(return_buffers=False),
    )


def refit(shape: Shape, own: Mapping[str, Any], scheme: str, sparsity: float) -> float:
    """Each layer once as it was and, cut, before each fit and after the last; and the sums. Solving is the CPU's."""
    tokens, passes = own["samples"] * own["sequence_length"], 3 if scheme == "ridge_attention" else 2
    width = (1 - sparsity) * shape.width
    sums = 2 * tokens * shape.layers * width * (width + shape.hidden)
    return shape.forward(tokens, 0) + shape.forward(passes * tokens, 0, sparsity) + sums


def sensitivity(shape: Shape, own: Mapping[str, Any], search: str, groups: int = 1) -> float:
    """One layer's cuts run that layer and all after it; `greedy` tries about two cuts in each step (docs/methods.md has
    what was counted), and runs what follows the one that it takes again. groups: of a layer, where they are cut."""
    tokens = min(own["samples"], own["probed"]) * own["sequence_length"]
    cuts = (LEVELS + min(LEVELS, groups - 1)) * shape.layers
    tried, again = (2 * cuts, cuts / 2) if search == "greedy" else (cuts, 0)
    passes = tried * (shape.layers + 1) / (2 * shape.layers) + again + 2
    return shape.forward(passes * tokens, 2 * tried * tokens)


def evaluation(
    shape: Shape, name: str, own: Mapping[str, Any], sparsity: float, stopped: bool = False
) -> tuple[float, float]:
    """(operations, bytes moved) of a task. stopped: the model stops early, where the task lets it.

    Raises InputError for one of unknown size."""
    size = size_of(name, own)
    if own["kind"] == "perplexity":
        if not (tokens := own["tokens"] or (size or {}).get("context_tokens")):
            raise InputError(f"tasks.{name}: how long the text is, is not known: set `tokens`")
        return shape.forward(tokens, tokens, sparsity), 0
    if size is None:
        raise InputError(f"tasks.{name}: how many items it has, and how long, is not known ({SIZES.name})")
    items = min(size["items"], own["limit"] or size["items"])
    if stopped and own["stop_early"]:
        items = min(items, own["stop_early"]["after"])
    if not size["answer_tokens"]:
        asked = items * size["continuation_tokens"]
        return shape.forward(items * size["contexts"] * size["context_tokens"] + asked, asked, sparsity), 0
    answer, once, prompt = lengths(own, size)
    steps, rows = -(-items // own["batch_size"]) * answer, items * answer
    asked = shape.forward(items * prompt + once + rows, items + rows, sparsity)
    cached = shape.cached * (steps * once + rows * (prompt + answer / 2))
    return asked, shape.size * (steps * (shape.kept(sparsity) + shape.head) + cached)


def lengths(own: Mapping[str, Any], size: Mapping[str, float]) -> tuple[int, int, int]:
    """Tokens of an answer, of the examples that all prompts begin with, where they are computed once, and of the rest
    of a prompt."""
    once = int(size["examples_tokens"]) if own["shared_examples"] else 0
    return int(own["max_gen_toks"] or size["answer_tokens"]), once, int(size["context_tokens"] - once)


def size_of(name: str, own: Mapping[str, Any]) -> dict[str, float] | None:
    return known_sizes().get(own["dataset"] if own["kind"] == "perplexity" else own["definition"] or name)


def shares_answers(own: Mapping[str, Any], name: str, other: Mapping[str, Any], other_name: str) -> bool:
    """Whether two tasks ask the same questions in the same way, so that a model answers them once."""
    if not own["kind"] == other["kind"] == "lm_eval":
        return False
    same = all(own.get(key) == other.get(key) for key in SAME_ANSWERS)
    return same and (own["definition"] or name) == (other["definition"] or other_name)


def reading(network: nn.Module, rows: int, prompt: int, more: int, shared: int = 0, at_once: bool = True) -> Taken:
    """What prompts of so many tokens take, of which all share the first, and more tokens after them, with keys and
    values kept: read at once, as an option is, or generated one by one (evaluation/generation.py)."""

    @torch.no_grad()
    def read(cache: Any, rows: int, tokens: int) -> None:
        ids = torch.zeros(rows, tokens, dtype=torch.long, device=network.get_input_embeddings().weight.device)
        network(input_ids=ids, cache=cache, use_cache=True, logits_to_keep=1)

    def work() -> None:
        prefix, cache = generation.new_cache(network), generation.new_cache(network, shared)
        if shared:
            read(prefix, 1, shared)
        read(cache, rows, prompt - shared)
        if not at_once:
            for layer in cache.layers:
                *own, _, size = layer.keys.shape
                layer.update(layer.keys.new_empty(*own, more - 1, size), layer.keys.new_empty(*own, more - 1, size))
        read(cache, rows, more if at_once else 1)

    return rehearsed(network, work)


@cache
def known_sizes() -> dict[str, dict[str, float]]:
    with SIZES.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {row["task"]: {key: float(value) for key, value in row.items() if key != "task"} for row in rows}
