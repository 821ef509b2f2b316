"""What planned jobs take: memory, by rehearsal of the stages' own code; time, by forward passes; what they write.

A forward pass costs two floating-point operations per parameter and token; so does a backward pass to the activations,
since weights are frozen. Each token that is generated takes a read of all weights per batch, and of the keys and values
of each row. Attention's products, norms and start-ups are left out. The time so counted is right within a factor of
about two (docs/explanation/memory.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from torch import nn

from pruning.calibration import footprint, gradients, gram, output_gradients, second_moments
from pruning.command.cards import Card
from pruning.core import names
from pruning.core.layer_files import label_of
from pruning.core.names import Variant
from pruning.evaluation import generation, recovery
from pruning.evaluation.kinds import perplexity
from pruning.methods import allocation, compensation, least_squares
from pruning.methods.compensation import ridge
from pruning.models import families, rehearsal, structures
from pruning.models.structures import STRUCTURES, ffn

SHAPES = names.HOME / "resources/architectures"
SIZES = names.HOME / "resources/task_sizes.csv"  # items of published test sets; tokens an item, by Qwen2.5's tokenizer
PROMPT, ANSWER = 1024, 256  # tokens, where only the data know
WRITTEN = 0.6  # of the longest answer, the mean: Qwen2.5-Coder-0.5B's 0.6 of 452 tokens on GSM8K, SmolLM2-135M's half
BYTES = 4  # of a token, of texts that are counted in bytes
READING = 2e9  # bytes a second of a checkpoint, from disk to device
KEYS = {"calibrations": "calib", "tunings": "tuning", "tasks": "task"}  # section -> wildcard


class Shape(NamedTuple):
    """A dense model in numbers."""

    layers: int
    width: float
    """Neurons of an FFN, the mean of the layers: of a mixture those of the experts that a token is sent to."""
    hidden: int
    parameters: int
    """Of all products of a token: decoder layers, with as many experts as it is sent to, and head."""
    cached: int  # numbers per token of keys and values
    size: int  # bytes per parameter
    weights: int  # bytes of all weights
    on_disk: int  # bytes of those that are in memory at once where the layers stay on disk
    experts: int = 0  # parameters of all experts
    idle: int = 0  # those of the experts that a token is not sent to

    def removed(self, sparsity: float) -> float:
        """Return the parameters of this share of the FFN neurons, or of the experts."""
        return sparsity * (self.experts or 3 * self.layers * self.hidden * self.width)

    def kept(self, sparsity: float) -> float:
        """Return the parameters that a token goes through: fewer experts are as many for a token."""
        return self.parameters if self.experts else self.read(sparsity)

    def read(self, sparsity: float) -> float:
        """Return the parameters that generating a token for each of many texts reads: those of all experts."""
        return self.parameters + self.idle - self.removed(sparsity)


def shape_of(network: nn.Module) -> Shape:
    """Return the numbers of a model, with or without weights."""
    layers, config = families.decoder_layers(network), network.config.get_text_config()
    main = structures.main(families.of(network))
    sites, experts, share = main.sites(network), 0, 1.0
    if main.name == "experts":
        experts = sum(parameter.numel() for site in sites for parameter in site.parameters())
        share = config.num_experts_per_tok / main.whole(config.to_dict())
    head = network.get_output_embeddings().weight
    idle = round((1 - share) * experts)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return Shape(
        len(layers),
        share * sum(map(main.channels, sites)) / len(sites),
        config.hidden_size,
        head.numel() + sum(parameter.numel() for layer in layers for parameter in layer.parameters()) - idle,
        *(2 * len(layers) * heads * size, head.element_size()),
        *(rehearsal.weight_bytes(network, offloaded) for offloaded in (False, True)),
        *(experts, idle),
    )


class Length(NamedTuple):
    """Tokens of an evaluation: each of `items` has a `prompt` to read and an `answer` to generate, after `shared` ones
    that all prompts begin with and that are computed once. The text of a perplexity is one prompt."""

    items: float
    prompt: float
    answer: float = 0
    shared: float = 0


def length_of(name: str, task: Any) -> Length | None:
    """Return the length of a task, its longest answers', None where it is not known. Of another one that says how much
    is asked, prompts are a guess, and options in the place of answers as well."""
    known = sizes().get(task.dataset if task.kind == "perplexity" else task.definition or name)
    if task.kind == "perplexity":
        tokens = task.tokens or (known and known["context_tokens"])
        if task.tokens and task.per == "byte":
            tokens /= BYTES
        return Length(1, tokens) if tokens else None
    if not known:
        if not task.limit:
            return None
        return Length(task.limit, PROMPT / 4, task.max_gen_toks) if task.max_gen_toks else Length(task.limit, PROMPT)
    items = min(known["items"], task.limit or known["items"])
    if not known["answer_tokens"]:
        return Length(items, known["contexts"] * known["context_tokens"] + known["continuation_tokens"])
    shared = known["examples_tokens"] if task.shared_examples else 0
    return Length(items, known["context_tokens"] - shared, task.max_gen_toks or known["answer_tokens"], shared)


@cache
def sizes() -> dict[str, dict[str, float]]:
    return pd.read_csv(SIZES, index_col="task").astype(float).to_dict("index")


class Run:
    """Jobs of one configuration on a card. Each model is built, and each stage rehearsed, once: that takes seconds."""

    def __init__(self, config: Any, card: Card) -> None:
        self.config, self.card = config, card
        self.shape, self.inputs, self.beside = cache(self._shape), cache(self._inputs), cache(self._beside)

    def network(self, model: str) -> nn.Module | None:
        """Return a model without weights; None where its config.json is not there yet."""
        if model not in self.config.models:
            return None
        own = self.config.models[model]
        places = [Path(names.BASE.format(model=model)).parent, SHAPES / model]  # a published shape, until it is fetched
        if own.source.kind == "local":
            places.insert(1, Path(own.source.path))
        found = next((place for place in places if (place / "config.json").is_file()), None)
        return rehearsal.network(found, own.dtype) if found else None

    def _shape(self, model: str) -> Shape | None:
        return shape_of(network) if (network := self.network(model)) else None

    def _inputs(self, model: str, structure: str) -> float:
        """Return how many inputs the module has at which a structure is measured, the mean of the layers."""
        network = self.network(model)
        [own] = structures.of_model([structure], families.of(network))
        sites = STRUCTURES[own].sites(network)
        return sum(map(STRUCTURES[own].channels, sites)) / len(sites)

    def _beside(self, model: str, rule: str, key: str, trains: bool = False) -> float:
        """Return the bytes that a rule's jobs take beside the weights, on GPUs where the model has some, with the
        settings of this name. trains: a refit's scheme does."""
        kind, structure = kind_of(rule)
        section = STAGES[kind].section
        own = getattr(self.config, section)[key]
        if getattr(own, "kind", "") == "lm_eval":
            return self.answering(model, key)[1]
        settings = own.model_dump() | {"structure": structure, "training": trains}
        if section == "calibrations" and self.config.models[model].offload:
            settings["gradient_checkpointing"] = True
        taken = STAGES[kind].taken(self.network(model), settings)
        return taken.bytes - (taken.spared if self.config.models[model].gpus else 0)

    def answering(self, model: str, name: str) -> tuple[int, float]:
        """Return the batch of a task of lm-eval, halved until it fits beside a model's weights where that is on GPUs,
        and the bytes it takes: keys and values, and while prompts are read an FFN's activations. The longest prompts
        are taken to be twice the mean."""
        task, shape, gpus = self.config.tasks[name], self.shape(model), self.config.models[model].gpus
        length = length_of(name, task) or Length(1, PROMPT / 2, ANSWER)
        prompt, activations = 2 * length.prompt, 3 * shape.width + 5 * shape.hidden
        generated = (prompt + length.answer + generation.ROOM) * shape.cached
        row = shape.size * max(prompt * (shape.cached + activations), generated)
        shared = shape.size * length.shared * shape.cached
        batch, free = task.batch_size, gpus * self.card.gb * 1e9 - shape.weights
        while gpus and batch > 1 and shared + batch * row > free:
            batch //= 2
        return batch, shared + batch * row


class Job:
    """A planned job, and what it takes; each of these is None where it is not known, or nothing."""

    def __init__(self, run: Run, rule: str, wildcards: Mapping[str, str]) -> None:
        self.run, self.rule, self.wildcards, self.model = run, rule, wildcards, wildcards.get("model", "")
        self.kind, self.structure = kind_of(rule)
        self.shape, self.loads, config = run.shape(self.model), self.kind in (*STAGES, *UNKNOWN), run.config
        section = STAGES[self.kind].section if self.kind in STAGES else ""
        keys = wildcards[KEYS[section]].split(",") if section else ()
        self.settings = {key: getattr(config, section)[key] for key in keys}
        """Of the calibration, of the tuning, or of all tasks of an evaluation."""
        self.method = config.method(wildcards["method"]) if "method" in wildcards else None
        variant = Variant.parse(wildcards.get("variant", "dense"))
        self.sparsity = (variant.sparsity or int(wildcards.get("sparsity", 0))) / 100
        first = config.lineage(self.model)[-1] if self.model in config.models else ""
        self.original = wildcards.get("variant") == "dense" and first == self.model
        self.offloaded = section == "calibrations" and self.model in config.models and config.models[self.model].offload

    @property
    def memory(self) -> float | None:
        """Gigabytes at once, weights included."""
        if not (self.shape and self.settings):
            return None
        weights = self.shape.on_disk if self.offloaded else self.shape.weights
        trains = self.kind == "refit" and compensation.trains(self.method.compensate)
        return (weights + max(self.run.beside(self.model, self.rule, key, trains) for key in self.settings)) / 1e9

    @property
    def written(self) -> float | None:
        """Gigabytes of models, moments and refits, whether they are kept or not."""
        return self.counted()[2] / 1e9 or None if self.shape else None

    @property
    def seconds(self) -> float | None:
        """On the card, reading the weights from disk included."""
        if self.solved and not self.settings:
            return self.run.card.seconds(0, solved=self.solved)
        if not (self.shape and self.settings):
            return None
        tokens, moved, _ = self.counted()
        if tokens is None:
            return None
        busy = self.run.card.seconds(2 * self.shape.kept(self.sparsity) * tokens, moved, self.solved)
        [own, *_] = self.settings.values()
        reads = tokens / own.sequence_length / own.micro_batch if self.offloaded else 1
        return busy + reads * self.shape.read(0) * self.shape.size / READING

    @property
    def solved(self) -> float:
        """Operations in float64: what `obs` ranks by (1.8 n³ a layer, by benchmarks/surgeon.py) and least squares."""
        if not (self.shape and self.method):
            return 0
        inputs = self.run.inputs(self.model, self.structure)
        ranked, fitted = 1.8 * inputs**3, partial(least_squares.operations, inputs, self.shape.hidden)
        reconstructs = self.method.compensate.startswith("ridge")
        match self.kind:
            case "score" if self.method.score.startswith("obs"):
                a_layer = ranked
            case "refit":
                a_layer = fitted((1 - self.sparsity) * inputs)
            case "sensitivity" if reconstructs:
                widths = [inputs * level / allocation.LEVELS for level in range(allocation.LEVELS)]
                factorised = allocation.LEVELS if allocation.search_of(self.method.allocate) == "greedy" else 1
                a_layer = ridge.nested_operations(inputs, self.shape.hidden, widths, factorised)
            case "rounds":
                own = next(iter(self.settings.values())).rounds
                a_layer = (1 + len(own)) * ranked + sum(fitted((1 - each / 100) * inputs) for each in own)
            case _:
                return 0
        return self.shape.layers * a_layer

    def counted(self) -> tuple[float | None, float, float]:
        """Return the tokens through the model (None if they are not known), the bytes read to generate, and the bytes
        written.

        Tokens are those of the data times passes. A backward pass counts as a forward one, and layers computed again as
        another. A refit takes a pass of the dense model, one of the pruned one for its fits, and one after them; that
        of attention takes a third of one more, and a CPU saves most of the last."""
        size, left = self.shape, 1 - self.sparsity
        if self.kind in ("fetch_model", "compact"):
            return 0, 0, size.weights - size.removed(self.sparsity) * size.size
        if self.kind == "evaluate":
            return *self.evaluating(), 0
        if self.kind == "hidden_states":
            [tokens] = [length.prompt if (length := length_of(*own)) else None for own in self.settings.items()]
            return tokens, 0, (tokens or 0) * size.hidden * size.size
        if not self.settings:
            return None, 0, 0
        [own], written = self.settings.values(), 0.0
        inputs = self.run.inputs(self.model, self.structure)
        multiplied = size.layers * gram.multiplied(round(left * inputs))
        sums = multiplied / size.kept(self.sparsity)  # of second moments, in passes
        again, refit, samples = 1 + (own.gradient_checkpointing or self.offloaded), 3 + sums, getattr(own, "samples", 0)
        match self.kind:
            case "observe" | "statistics":
                passes = 1 + len(own.objectives) * again
            case "calibrate_shard":
                passes = (1 + len(own.objectives) * again) / own.shards
            case "second_moments":
                passes, written = 1 + sums, 8 * size.layers * inputs**2
            case "output_gradients":
                passes, written = 1 + again, 4 * size.layers * size.hidden**2
                samples = min(samples, own.gradient_samples or samples)
            case "refit":
                others = {*compensation.refits(self.method.compensate)} - {self.structure}
                columns = left * inputs + sum(self.run.inputs(self.model, each) for each in others)
                passes, written = refit, 4 * size.layers * size.hidden * columns
                if compensation.trains(self.method.compensate):
                    trained = self.method.training.epochs * (1 + 1 / size.layers)  # the first layer tries two rates
                    fit = 1 - 1 / second_moments.HELD_OUT_EVERY  # forward, and backward to activations and to weights
                    passes, written = refit + (1 + 2 * fit) * trained, 4 * size.kept(self.sparsity)
            case "rounds":  # measured before each iteration and after the last, as if nothing were removed
                share = min(samples, own.gradient_samples or samples) / samples
                passes = (1 + len(own.rounds)) * (share * (1 + again) + 1 + sums) + len(own.rounds) * refit
            case "sensitivity":  # a cut runs what follows it, half of the layers; `greedy` tries two, and one again
                tries = 3 if allocation.search_of(self.method.allocate) == "greedy" else 1
                passes, samples = tries * allocation.LEVELS * size.layers / 2, min(samples, own.probed)
            case "recover":
                passes, samples = 1 + again + (own.objective == "distillation"), own.steps * own.batch_size
        return passes * samples * own.sequence_length, 0, written

    def evaluating(self) -> tuple[float | None, float]:
        """Return the same of all tasks of an evaluation, without what is written."""
        tokens = moved = 0.0
        for name, task in self.settings.items():
            if not (length := length_of(name, task)):
                return None, 0
            items, prompt, answer, shared = length
            written = WRITTEN * answer
            if not (self.original and getattr(task, "divergence", False)):  # else its layers have run (hidden_states)
                tokens += items * (prompt + written) + shared
            if answer:  # a batch ends with its longest answer
                steps = -(-items // self.run.answering(self.model, name)[0]) * answer
                cached = self.shape.cached * (steps * shared + items * written * (prompt + written / 2))
                moved += self.shape.size * (steps * self.shape.read(self.sparsity) + cached)
        return tokens, moved


def kind_of(rule: str) -> tuple[str, str]:
    """Return what a rule does, and of which structure."""
    for structure in STRUCTURES:
        if rule.startswith(label := f"{label_of(structure)}_"):
            return rule.removeprefix(label), structure
    return rule, ffn.STRUCTURE.name


STAGES = {
    **dict.fromkeys(("calibrate_shard", "observe", "statistics"), gradients.STAGE),
    **{"second_moments": second_moments.STAGE, "output_gradients": output_gradients.STAGE},
    **{"refit": footprint.REFIT, "rounds": footprint.ROUNDS, "sensitivity": footprint.SENSITIVITY},
    **{"recover": recovery.STAGE, "evaluate": perplexity.STAGE, "hidden_states": perplexity.STAGE},
}
"""Kind of a rule -> the stage whose memory is rehearsed."""
UNKNOWN = ("parameter_gradients", "gisp", "cases")
"""Those that load a model as well; what else they take is not known."""
