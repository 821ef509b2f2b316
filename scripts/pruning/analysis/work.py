"""What planned jobs take: memory, by rehearsal of the stages' own code; what they compute, move and write, counted.

A matrix of p parameters costs 2p floating-point operations a token. A token that is generated needs all weights read
once a step, whatever the batch, and the keys and values of each row. That bounds real time from below: attention's
scores, norms and start-ups are left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import nn

from pruning.calibration import footprint, gradients, output_gradients, second_moments
from pruning.core import memory, names
from pruning.core.errors import InputError
from pruning.core.names import Variant
from pruning.evaluation import generation, perplexity, recovery
from pruning.methods import allocation
from pruning.models import families, rehearsal
from pruning.models.rehearsal import Taken
from pruning.models.structures import ffn, kv_groups

SHAPES = names.HOME / "resources/architectures"
SIZES = names.HOME / "resources/task_sizes.csv"  # items of published test sets; tokens an item, by Qwen2.5's tokenizer
PROMPT, ANSWER = 1024, 256  # tokens, where only the data know
READING = 2e9  # bytes a second of a checkpoint, from disk to device
KEYS = {"calibrations": "calib", "tunings": "tuning", "tasks": "task"}  # section -> wildcard


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


def measured(device: str, dtype: str) -> Card:
    """Return this machine as a card, by products of matrices and copies that are timed for about a second. What jobs
    reach of that is a guess."""
    size = 4096 if device == "cuda" else 1024
    one = torch.ones(size, size, device=device, dtype=getattr(torch, dtype))
    other = torch.empty_like(one)

    def seconds(work: Callable[[], Any]) -> float:
        times = []
        while len(times) < 3 or sum(times) < 0.3:
            begun = time.perf_counter()
            work()
            if device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - begun)
        return min(times)

    product, copy = seconds(lambda: torch.mm(one, one, out=other)), seconds(lambda: other.copy_(one))
    memory_gb = torch.cuda.mem_get_info()[1] / 1e9 if device == "cuda" else memory.physical() / 1e9
    return Card(2 * size**3 / product / 1e12, 2 * one.nbytes / copy / 1e9, memory_gb)


class Shape(NamedTuple):
    """A dense model in numbers: parameters of its decoder layers, its head and its FFNs; layers; neurons of an FFN;
    residual stream; channels of a layer's attention; bytes of a parameter; keys and values of a token, in numbers;
    bytes of all weights."""

    matrices: int
    head: int
    ffn: int
    layers: int
    width: int
    hidden: int
    channels: int
    size: int
    cached: int
    weights: int

    def kept(self, sparsity: float) -> int:
        """Parameters of the layers when this share of the FFN neurons is removed."""
        return round(self.matrices - sparsity * self.ffn)

    def forward(self, tokens: float, logits: float, sparsity: float = 0) -> float:
        """Operations of tokens in large batches, of which so many need the head."""
        return 2 * (self.kept(sparsity) * tokens + self.head * logits)


def shape_of(network: nn.Module) -> Shape:
    """Return the numbers of a model, with or without weights."""
    layers, sites, config = families.decoder_layers(network), ffn.sites(network), network.config.get_text_config()
    head, down = network.get_output_embeddings().weight, sites[0]
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return Shape(
        sum(parameter.numel() for layer in layers for parameter in layer.parameters()),
        head.numel(),
        sum(3 * site.weight.numel() for site in sites),
        *(len(layers), down.in_features, down.out_features, config.num_attention_heads * size),
        *(head.element_size(), 2 * len(layers) * heads * size),
        network.get_memory_footprint(return_buffers=False),
    )


class Run:
    """What jobs of one configuration take on a card. Each rehearsal, of seconds, is made once.

    stops_from: models of so many per cent and more stop early where a task lets them."""

    def __init__(self, config: Any, card: Card, stops_from: int = 101) -> None:
        self.config, self.card, self.stops_from = config, card, stops_from
        self.taken, self.shape = cache(self._taken), cache(self._shape)

    def directory(self, model: str) -> Path | None:
        """Where the config.json of a model lies, if its shape is known."""
        source = self.config.models[model].source if model in self.config.models else None
        places = [Path(names.BASE.format(model=model)).parent, SHAPES / model]  # a published shape, until it is fetched
        if source and source.kind == "local":
            places.insert(1, Path(source.path))
        return next((place for place in places if source and (place / "config.json").is_file()), None)

    def _shape(self, model: str) -> Shape | None:
        folder = self.directory(model)
        return shape_of(rehearsal.network(folder, self.config.models[model].dtype)) if folder else None

    def _taken(self, model: str, rule: str, key: str, batch: int = 0) -> Taken:
        """Return what a rule's repeated part takes, with the settings of this name; of a task of lm-eval one batch,
        whose prompts are taken to be twice the mean, beyond what they share."""
        stage, network = COSTS[rule].stage, rehearsal.network(self.directory(model), self.config.models[model].dtype)
        own = getattr(self.config, stage.section)[key].model_dump()
        if own.get("kind") == "lm_eval":
            if not (size := size_of(key, own)) or not size["answer_tokens"]:
                return reading(network, batch, PROMPT, ANSWER)
            answer, shared, prompt = lengths(own, size)
            return reading(network, batch, shared + 2 * prompt, answer, shared, at_once=False)
        return stage.taken(network, own | ({"structure": "kv_groups"} if rule.startswith("attention_") else {}))

    def batch_of(self, model: str, name: str, sparsity: float = 0) -> tuple[int, int]:
        """The largest batch of a task that fits beside a model's weights, halved from its own, and its bytes; on a CPU
        its own."""
        task, gpus, shape = self.config.tasks[name], self.config.models[model].gpus, self.shape(model)
        weights = (shape.kept(sparsity) + 2 * shape.head) * shape.size if sparsity else shape.weights
        batch, room = task.batch_size, gpus * self.card.gb * 1e9 - weights if gpus else float("inf")
        smallest = 1 if task.kind == "lm_eval" else batch  # of windows all at once
        while (beside := self.taken(model, "evaluate", name, batch).bytes) > room and batch > smallest:
            batch //= 2
        return batch, beside


class Job:
    """A planned job, and what it takes; each of these is None where it is not known, or nothing."""

    def __init__(self, run: Run, rule: str, wildcards: Mapping[str, str]) -> None:
        self.run, self.rule, self.wildcards, config = run, rule, wildcards, run.config
        self.model, self.sparsity = wildcards.get("model", ""), int(wildcards.get("sparsity", 0)) / 100
        self.cost, self.shape = COSTS.get(rule, NOTHING), run.shape(self.model)
        self.calibration = config.calibrations[wildcards["calib"]] if "calib" in wildcards else None
        self.tuning = config.tunings[wildcards["tuning"]] if "tuning" in wildcards else None
        self.method = config.method(wildcards["method"]) if "method" in wildcards else None
        beside = rule == "recover" and self.tuning.objective == "distillation"
        if rule == "evaluate" and (wildcards["variant"] != "dense" or len(config.lineage(self.model)) > 1):
            beside = any(getattr(config.tasks[name], "divergence", False) for name in wildcards["task"].split(","))
        self.teacher = run.shape(config.lineage(self.model)[-1]) or self.shape if beside else None

    @property
    def memory(self) -> float | None:
        """Gigabytes at once, weights included."""
        if not (self.shape and self.cost.stage):
            return None
        keys = self.wildcards[KEYS[self.cost.stage.section]].split(",")
        run, evaluates = self.run, self.rule == "evaluate"
        beside = max(
            run.batch_of(self.model, key)[1] if evaluates else run.taken(self.model, self.rule, key).bytes
            for key in keys
        )
        return (self.shape.weights + (self.teacher.weights if self.teacher else 0) + beside) / 1e9

    @property
    def written(self) -> float | None:
        """Gigabytes of models, moments and refits, whether they are kept or not."""
        return self.cost.written(self) / 1e9 or None if self.shape else None

    @property
    def seconds(self) -> float | None:
        """On the card, reading the weights from disk included."""
        if not (self.shape and self.cost.work):
            return None
        try:
            work = self.cost.work(self)
            busy = self.run.card.seconds(*(work if isinstance(work, tuple) else (work,)))
        except InputError:  # a task of unknown size
            return None
        return busy + (self.shape.matrices + self.shape.head) * self.shape.size / READING

    def rehearsed(self, rule: str = "") -> float:
        """Return the operations of all micro-batches of a calibration, each as it is rehearsed: by this rule, or
        another; second moments are rehearsed in one layer."""
        each = self.run.taken(self.model, rule or self.rule, self.wildcards["calib"]).flops
        layers = self.shape.layers if (rule or self.rule).endswith("second_moments") else 1
        return each * layers * self.calibration.samples / self.calibration.micro_batch

    def refit(self, scheme: str, sparsity: float) -> float:
        """Return the operations of each layer, once as it was and, cut, before each fit and after the last; and of the
        sums. Solving is the CPU's."""
        tokens, width = self.calibration.samples * self.calibration.sequence_length, (1 - sparsity) * self.shape.width
        passes = 3 if scheme == "ridge_attention" else 2
        sums = 2 * tokens * self.shape.layers * width * (width + self.shape.hidden)
        return self.shape.forward(tokens, 0) + self.shape.forward(passes * tokens, 0, sparsity) + sums

    def rounds(self) -> float:
        """Return the operations of what is measured before each round and after the last, and of the refits."""
        refits = sum(self.refit("ridge_attention", removed / 100) for removed in self.calibration.rounds)
        measured = self.rehearsed("output_gradients") + self.rehearsed("second_moments")
        return (1 + len(self.calibration.rounds)) * measured + refits

    def sensitivity(self) -> float:
        """Return the operations of cuts: each runs its layer and all after it; `greedy` tries about two in each step
        (docs/methods.md has what was counted), and runs what follows the one that it takes again."""
        layers, scheme = self.shape.layers, self.method.allocate
        config = families.read_config(self.run.directory(self.model))
        groups = kv_groups.STRUCTURE.units(config)[0] if "kv_groups" in allocation.structures_of(scheme) else 1
        cuts = (allocation.LEVELS + min(allocation.LEVELS, groups - 1)) * layers
        tried, again = (2 * cuts, cuts / 2) if allocation.search_of(scheme) == "greedy" else (cuts, 0)
        tokens = min(self.calibration.samples, self.calibration.probed) * self.calibration.sequence_length
        return self.shape.forward((tried * (layers + 1) / (2 * layers) + again + 2) * tokens, 2 * tried * tokens)

    def recover(self) -> float:
        """Return the operations of the rehearsed steps, of a smaller model, and of a teacher's passes."""
        own, shape = self.tuning, self.shape
        steps = own.steps * self.run.taken(self.model, self.rule, self.wildcards["tuning"]).flops
        steps *= shape.forward(1, 1, self.sparsity) / shape.forward(1, 1)
        tokens = own.steps * own.batch_size * own.sequence_length
        return steps + (self.teacher.forward(tokens, tokens) if self.teacher else 0)

    def evaluate(self) -> tuple[float, float]:
        """Return the operations and bytes moved of all tasks that a variant answers in one job; of those that share
        their answers the longest. Raises InputError for a task of unknown size."""
        variant, longest = Variant.parse(self.wildcards["variant"]), {}
        sparsity, stopped = variant.sparsity / 100, variant.sparsity >= self.run.stops_from and not variant.tuning
        for name in self.wildcards["task"].split(","):
            own = self.run.config.tasks[name].model_dump()
            if own["kind"] == "lm_eval":
                own["batch_size"] = self.run.batch_of(self.model, name, sparsity)[0]
            work, same = evaluation(self.shape, name, own, sparsity, stopped), questions(name, own)
            longest[same] = max(longest.get(same, (0, 0)), work, key=lambda each: self.run.card.seconds(*each))
        return tuple(map(sum, zip(*longest.values(), strict=True)))


class Cost(NamedTuple):
    """How a rule's jobs are reckoned with: what of their work is rehearsed; operations on a card, of answers these and
    bytes moved; bytes of tensors that they write; whether a job loads a model, to compute with it."""

    stage: rehearsal.Stage | None = None
    work: Callable[[Job], Any] | None = None
    written: Callable[[Job], float] = lambda job: 0
    loads: bool = True


def refit_bytes(job: Job) -> float:
    """Return what a refit writes: the fitted matrices, in float32."""
    attention = job.shape.channels * (job.method.compensate == "ridge_attention")
    return 4 * job.shape.layers * job.shape.hidden * (job.shape.width * (1 - job.sparsity) + attention)


MOMENTS = Cost(second_moments.STAGE, Job.rehearsed, lambda job: 8 * job.shape.layers * job.shape.width**2)
CURVATURE = Cost(output_gradients.STAGE, Job.rehearsed, lambda job: 4 * job.shape.layers * job.shape.hidden**2)
WEIGHTS = Cost(written=lambda job: job.shape.weights - job.sparsity * job.shape.ffn * job.shape.size, loads=False)
COSTS = {
    "calibrate_shard": Cost(gradients.STAGE, lambda job: job.rehearsed() / job.calibration.shards),
    **dict.fromkeys(("observe", "attention_statistics"), Cost(gradients.STAGE, Job.rehearsed)),
    "second_moments": MOMENTS,
    "attention_second_moments": MOMENTS._replace(written=lambda job: 8 * job.shape.layers * job.shape.channels**2),
    **dict.fromkeys(("output_gradients", "attention_output_gradients"), CURVATURE),
    **dict.fromkeys(("parameter_gradients", "attention_parameter_gradients", "cases"), Cost()),
    "refit": Cost(footprint.REFIT, lambda job: job.refit(job.method.compensate, job.sparsity), refit_bytes),
    "rounds": Cost(footprint.ROUNDS, Job.rounds),
    "sensitivity": Cost(footprint.SENSITIVITY, Job.sensitivity),
    "recover": Cost(recovery.STAGE, Job.recover),
    "evaluate": Cost(perplexity.STAGE, Job.evaluate),
    **dict.fromkeys(("compact", "fetch_model"), WEIGHTS),
}
"""Rule -> its cost. Of others nothing is reckoned."""
NOTHING = Cost(loads=False)


def evaluation(
    shape: Shape, name: str, own: Mapping[str, Any], sparsity: float, stopped: bool = False
) -> tuple[float, float]:
    """(operations, bytes moved) of a task. stopped: the model stops early, where the task lets it.

    Raises InputError for one of unknown size."""
    size = size_of(name, own)
    if own["kind"] == "perplexity":
        if not (tokens := own["tokens"] or (size or {}).get("context_tokens")):
            raise InputError(f"tasks.{name}: how long the text is, is not known: set `tokens`")
        dense = shape.forward(tokens, tokens) if own.get("divergence") and sparsity else 0
        return shape.forward(tokens, tokens, sparsity) + dense, 0
    if size is None:
        raise InputError(f"tasks.{name}: how many items it has, and how long, is not known ({SIZES.name})")
    items = min(size["items"], own["limit"] or size["items"])
    if stopped and own["stop_early"]:
        items = min(items, own["stop_early"]["after"])
    if not size["answer_tokens"]:
        options = items * size["continuation_tokens"]
        return shape.forward(items * size["contexts"] * size["context_tokens"] + options, options, sparsity), 0
    answer, once, prompt = lengths(own, size)
    steps, rows = -(-items // own["batch_size"]) * answer, items * answer
    flops = shape.forward(items * prompt + once + rows, items + rows, sparsity)
    cached = shape.cached * (steps * once + rows * (prompt + answer / 2))
    return flops, shape.size * (steps * (shape.kept(sparsity) + shape.head) + cached)


def lengths(own: Mapping[str, Any], size: Mapping[str, float]) -> tuple[int, int, int]:
    """Tokens of an answer, of the examples that all prompts begin with, where they are computed once, and of the rest
    of a prompt."""
    once = int(size["examples_tokens"]) if own["shared_examples"] else 0
    return int(own["max_gen_toks"] or size["answer_tokens"]), once, int(size["context_tokens"] - once)


def size_of(name: str, own: Mapping[str, Any]) -> dict[str, float] | None:
    """Return what is known of a task's size (SIZES)."""
    return known_sizes().get(own["dataset"] if own["kind"] == "perplexity" else own["definition"] or name)


@cache
def known_sizes() -> dict[str, dict[str, float]]:
    return pd.read_csv(SIZES, index_col="task").astype(float).to_dict("index")


def questions(name: str, own: Mapping[str, Any]) -> tuple:
    """Return what is equal of tasks that ask the same questions in the same way, so that a model answers them once."""
    how = ("num_fewshot", "shared_examples", "chat_template", "max_gen_toks")
    asked = (own["definition"] or name, *(own[key] for key in how)) if own["kind"] == "lm_eval" else (name,)
    return own["kind"], *asked


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

    return rehearsal.rehearsed(network, work)
