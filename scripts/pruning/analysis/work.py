"""What a stage's job computes and moves, counted from the config and the model's shape before anything runs.

A matrix of p parameters costs 2p floating-point operations a token, forward and as much backward (weights are frozen:
only activations have gradients). A token that is generated needs all weights read once a step, whatever the batch, and
the keys and values of each row. What is counted is a bound from below on real time: attention's scores, norms and
start-ups are left out.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from pruning.core import names
from pruning.core.errors import InputError
from pruning.methods.allocation import LEVELS

SIZES = names.HOME / "resources/task_sizes.csv"  # items of published test sets; tokens an item, by Qwen2.5's tokenizer


@dataclass(frozen=True)
class Shape:
    """A dense model."""

    matrices: int
    """Parameters of the decoder layers."""
    head: int
    """Of the head, which only some tokens need."""
    ffn: int
    """Of the FFNs, among those of the layers."""
    layers: int
    width: int
    """Neurons of an FFN."""
    hidden: int
    """Of the residual stream."""
    size: int
    """Bytes of a parameter."""
    cached: int
    """Numbers that are kept of a token, its keys and values in all layers."""

    def kept(self, sparsity: float) -> int:
        """Parameters of the layers when this share of the FFN neurons is gone."""
        return round(self.matrices - sparsity * self.ffn)


@dataclass(frozen=True)
class Work:
    flops: float = 0
    """Floating-point operations."""
    moved: float = 0
    """Bytes of weights, keys and values read from memory to generate, one token at a time."""

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.moved + other.moved)


@dataclass(frozen=True)
class Card:
    """What a device does by its data sheet (dense bfloat16), the share of it that is counted on, and what it holds."""

    tflops: float
    gbps: float
    gb: float
    """Of memory, less half a gigabyte for CUDA itself."""
    share: float = 0.4

    def seconds(self, work: Work) -> float:
        return work.flops / (self.tflops * 1e12 * self.share) + work.moved / (self.gbps * 1e9 * self.share)


CARDS = {
    "rtx4090": Card(165, 1008, 25.2),
    "a100": Card(312, 2039, 85.3),
    "h100": Card(989, 3350, 85.3),
    "h200": Card(989, 4800, 150),
}


def shape_of(config: Mapping[str, Any], layers: int, embedding: int, total: int, size: int) -> Shape:
    """Of a model with this config.json, number of parameters in all and in the embedding, and bytes of a parameter."""
    width, hidden = config["intermediate_size"], config["hidden_size"]
    head = config["vocab_size"] * hidden
    matrices = total - embedding - (0 if config.get("tie_word_embeddings") else head)
    heads = config.get("num_key_value_heads") or config["num_attention_heads"]
    of_head = config.get("head_dim") or hidden // config["num_attention_heads"]
    return Shape(matrices, head, layers * 3 * width * hidden, layers, width, hidden, size, 2 * layers * heads * of_head)


def forward(shape: Shape, tokens: float, logits: float, sparsity: float = 0) -> Work:
    """Tokens through the model in large batches, of which so many need the head."""
    return Work(2 * (shape.kept(sparsity) * tokens + shape.head * logits))


def generated(
    shape: Shape, rows: int, tokens: float, batch: int, sparsity: float = 0, prompt: float = 0, shared: float = 0
) -> Work:
    """So many tokens more in each row, after so many of its own and those that all rows share."""
    steps = -(-rows // batch) * tokens
    weights = shape.kept(sparsity) + shape.head
    cached = shape.cached * (steps * shared + rows * tokens * (prompt + tokens / 2))
    return forward(shape, rows * tokens, rows * tokens, sparsity) + Work(moved=shape.size * (steps * weights + cached))


def calibration(shape: Shape, own: Mapping[str, Any]) -> Work:
    """One shard: forward, and for each objective backward (and forward again where layers are computed twice)."""
    tokens = own["samples"] * own["sequence_length"] / own["shards"]
    passes = 1 + len(own["objectives"]) * (2 if own["gradient_checkpointing"] else 1)
    return forward(shape, passes * tokens, 2 * tokens * ("ce" in own["objectives"]))


def second_moments(shape: Shape, own: Mapping[str, Any]) -> Work:
    tokens = own["samples"] * own["sequence_length"]
    return forward(shape, tokens, 0) + Work(2 * tokens * shape.layers * shape.width**2)


def output_gradients(shape: Shape, own: Mapping[str, Any]) -> Work:
    """Forward, backward (and forward again where layers are computed twice), the head once more: labels are drawn."""
    tokens = own["samples"] * own["sequence_length"]
    gradients = Work(2 * tokens * shape.layers * shape.hidden**2)
    return forward(shape, (3 if own["gradient_checkpointing"] else 2) * tokens, 3 * tokens) + gradients


def refit(shape: Shape, own: Mapping[str, Any], scheme: str, sparsity: float) -> Work:
    """Each layer once as it was and, cut, before each fit and after the last; and the sums. Solving is the CPU's."""
    tokens, passes = own["samples"] * own["sequence_length"], 3 if scheme == "ridge_attention" else 2
    width = (1 - sparsity) * shape.width
    sums = Work(2 * tokens * shape.layers * width * (width + shape.hidden))
    return forward(shape, tokens, 0) + forward(shape, passes * tokens, 0, sparsity) + sums


def rounds(shape: Shape, own: Mapping[str, Any]) -> Work:
    """Curvature and second moments in every round, a refit between two."""
    gone = [0, *own["rounds"]]
    measured = (output_gradients(shape, own) + second_moments(shape, own) for _ in gone)
    refitted = (refit(shape, own, "ridge_attention", each / 100) for each in own["rounds"])
    return sum([*measured, *refitted], Work())


def sensitivity(shape: Shape, own: Mapping[str, Any], search: str, groups: int = 1) -> Work:
    """One layer's cuts run that layer and all after it; `greedy` tries about two cuts in each step (docs/methods.md has
    what was counted), and runs what follows the one that it takes again. groups: of a layer, where cuts of them are
    measured as well."""
    levels = LEVELS + min(LEVELS, groups - 1)
    tokens, cuts = min(own["samples"], own["probed"]) * own["sequence_length"], levels * shape.layers
    tried = cuts * (2 if search == "greedy" else 1)
    passes = tried * (shape.layers + 1) / (2 * shape.layers) + (cuts / 2 if search == "greedy" else 0) + 2
    return forward(shape, passes * tokens, 2 * tried * tokens)


def recovery(shape: Shape, own: Mapping[str, Any], sparsity: float, dense: Shape) -> Work:
    """Forward and backward of full sequences (adapters are small); forward again where layers are computed twice; and
    the forward pass of the dense model, before any round, where it is distilled."""
    tokens = own["steps"] * own["batch_size"] * own["sequence_length"]
    teacher = forward(dense, tokens, tokens) if own["objective"] == "distillation" else Work()
    return teacher + forward(shape, (3 if own["gradient_checkpointing"] else 2) * tokens, 2 * tokens, sparsity)


def evaluation(shape: Shape, name: str, own: Mapping[str, Any], sparsity: float, stopped: bool = False) -> Work:
    """A task's. stopped: the model stops early, where the task lets it. Raises InputError for one of unknown size."""
    sizes = known_sizes()
    if own["kind"] == "perplexity":
        tokens = own["tokens"] or (sizes[own["dataset"]]["context_tokens"] if own["dataset"] in sizes else None)
        if tokens is None:
            raise InputError(f"tasks.{name}: how long the text is, is not known: set `tokens`")
        return forward(shape, tokens, tokens, sparsity)
    size = sizes.get(own["definition"] or name)
    if size is None:
        raise InputError(f"tasks.{name}: how many items it has, and how long, is not known ({SIZES.name})")
    items = min(size["items"], own["limit"] or size["items"])
    if stopped and own["stop_early"]:
        items = min(items, own["stop_early"]["after"])
    if size["answer_tokens"]:
        answer = own["max_gen_toks"] or size["answer_tokens"]
        once = size["examples_tokens"] if own["shared_examples"] else 0  # of all prompts, computed once
        asked = forward(shape, items * (size["context_tokens"] - once) + once, items, sparsity)
        prompt = size["context_tokens"] - once
        return asked + generated(shape, round(items), answer, own["batch_size"], sparsity, prompt, once)
    tokens = items * (size["contexts"] * size["context_tokens"] + size["continuation_tokens"])
    return forward(shape, tokens, items * size["continuation_tokens"], sparsity)


def shares_answers(own: Mapping[str, Any], name: str, other: Mapping[str, Any], other_name: str) -> bool:
    """Whether two tasks ask the same questions in the same way, so that a model answers them once."""
    keys = ("kind", "num_fewshot", "shared_examples", "chat_template", "max_gen_toks")
    same = all(own.get(key) == other.get(key) for key in keys)
    return same and own["kind"] == "lm_eval" and (own["definition"] or name) == (other["definition"] or other_name)


@cache
def known_sizes() -> dict[str, dict[str, float]]:
    with SIZES.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {row["task"]: {key: float(value) for key, value in row.items() if key != "task"} for row in rows}
