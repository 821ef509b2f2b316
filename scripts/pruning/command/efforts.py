"""What `prune --effort` stands for: a method and how much data it is calibrated on, one file of config/efforts each."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import yaml
from pydantic import Field

from pruning.config.base import Positive, Strict
from pruning.config.default import DEFAULT
from pruning.config.methods import Method
from pruning.core import names
from pruning.core.errors import InputError
from pruning.methods import compensation, requirements
from pruning.methods.compensation import TOKENS_A_COLUMN
from pruning.models.families import obstacle
from pruning.models.gguf import architectures
from pruning.models.vocabulary import Tokenizer

EFFORTS = ("quick", "standard", "thorough")
WITHOUT_RECONSTRUCTION = "cfsp"
"""The best method that needs neither gradients nor matrices: for machines where no effort fits."""
ASKED = 50  # test questions on a CPU where --answer asks and the effort does not
TESTED = {"cpu": 20 * 1024, "gpu": 128 * 2048}
FEWEST_OF_A_QUESTION = 20
"""Tokens of a question with the model's answer, at least, on average over right and wrong ones, which are left out."""
PROBED = {"cpu": 2048, "gpu": 16 * 2048}
"""Tokens that layers' widths are tried on, where the method measures what cutting them costs (docs/howto/effort.md)."""
MULTIPLES, LEAST_BLOCKS = {"cpu": 32, "gpu": 128}, 16
"""Kept widths are multiples of so many neurons (what that costs: table `rounding` of config/candidates.yaml), or of the
block of a GGUF type that is asked for, where the widest layer has at least so many of these."""

LARGE_VOCABULARY, LARGE_SHARE = 100_000, 0.1
"""From so many tokens, and from so large a share of the parameters on, a smaller vocabulary is worth trying."""


class Effort(Strict):
    """A preset of config/efforts."""

    summary: str
    """What it does, for `--help` and the page."""
    method: Method
    """Where the family scales what its layers add to the residual stream, weights are reconstructed by
    `ridge_sequential` in place of the other schemes."""
    tokens: Annotated[dict[Literal["cpu", "gpu"], Positive], Field(min_length=2)]
    """Most calibration tokens, by what computes."""
    tokens_to_fit: bool = False
    """More where a layer is wide: TOKENS_A_COLUMN for each neuron of the widest one, beside those held out."""
    tested: Annotated[dict[Literal["cpu", "gpu"], Positive], Field(min_length=2)] = TESTED
    """Most tokens of the test data, likewise."""
    questions: Annotated[int, Field(ge=0)] = 100
    """Most test questions that models answer in words, on a CPU; on a GPU four times as many. 0: none unless --answer
    asks."""
    training_questions: Positive = 800
    """Most training questions, likewise, that are asked for own answers."""
    recover: Literal["distill", "lora"] | None = None
    """Recovery after pruning."""
    own_answers: bool = False
    """Calibrates, and recovers by distillation, on the dense model's own right answers, where answers are judged and
    there are enough (right_answers.collect)."""


def read(name: str, tokens: int | None = None, width: int = 0) -> Effort:
    """Return the preset of a name, for so many calibration tokens in place of its own, or for as many as layers of this
    width take.

    Raises InputError, listing the names, for one that there is not."""
    if name not in EFFORTS:
        raise InputError(f"--effort {name}: no such effort; there are: {', '.join(EFFORTS)}")
    effort = Effort(**yaml.safe_load(Path(names.own(f"config/efforts/{name}.yaml")).read_text()))
    if tokens is not None:
        asked = max(effort.training_questions, tokens // FEWEST_OF_A_QUESTION)
        return effort.model_copy(update={"tokens": dict.fromkeys(effort.tokens, tokens), "training_questions": asked})
    if not (width and effort.tokens_to_fit):
        return effort
    from pruning.calibration.second_moments import HELD_OUT_EVERY  # torch is slow

    least = math.ceil(TOKENS_A_COLUMN * width / (1 - 1 / HELD_OUT_EVERY))
    return effort.model_copy(update={"tokens": {kind: max(own, least) for kind, own in effort.tokens.items()}})


def multiple(kind: str, blocks: Iterable[int], width: int) -> int:
    """Return what kept widths are multiples of.

    kind: `cpu` or `gpu`. blocks: values that the GGUF types asked for store together; a row that is no whole blocks is
    stored in a larger type. width: the widest layer's."""
    largest = max([MULTIPLES[kind], *blocks])
    return largest if width >= LEAST_BLOCKS * largest else MULTIPLES[kind]


def method_for(effort: Effort, shape: Mapping[str, Any], round_to: int, equal: bool) -> tuple[Method, list[str]]:
    """Return the effort's method as this model, machine and target can have it, and notes of what differs.

    shape: the model's config.json. round_to: as `multiple` gives it. equal: all layers must be equally wide, as a
    runtime asks that has one width per model: what rounding leaves narrower is padded."""
    changes, notes = {"round_to": round_to, **({"export": "pad"} if equal else {})}, []
    if compensation.corrective(effort.method.compensate) and (reason := obstacle(shape)):
        changes["compensate"] = "ridge_sequential"
        alone = "so each layer is reconstructed by its own output alone (`ridge_sequential`)"
        notes.append(f"{shape['model_type']} {reason}, {alone}.")
    if equal and effort.method.allocate != "uniform":
        changes["allocate"] = "uniform"
        reads = f"llama.cpp reads no others in {shape['model_type']}"
        notes.append(f"Every layer keeps equally many neurons, because {reads}.")
    return effort.method.model_copy(update=changes), notes


class Needs(NamedTuple):
    """What the largest job of a method takes, or what a machine has, in GB."""

    memory: float
    disk: float  # while it runs

    def lacking(self, there: "Needs") -> str | None:
        """Why it cannot run there; None if it can."""
        for what, needed, has in zip(self._fields, self, there, strict=True):
            if needed > has:
                return f"weight reconstruction takes {needed:.1f} GB of {what}, {has:.1f} GB are there"
        return None


def needs(folder: Path, dtype: str, calibration: Mapping[str, Any], on_gpus: bool, methods: Sequence[Method]) -> Needs:
    """Return what reconstructing the weights of a model takes, by rehearsal; nothing where no method does.

    folder: the model's. calibration: `samples`, `micro_batch`, `sequence_length`."""
    kinds = {kind for method in methods for kind in requirements.passes(method)}
    if not kinds & {"second_moments", "refit", "output_gradients", "rounds"}:
        return Needs(0.0, 0.0)
    from pruning.calibration import footprint  # slow
    from pruning.models import rehearsal
    from pruning.models.structures import ffn

    network = rehearsal.network(folder, dtype)
    beside, sites = footprint.REFIT.taken(network, {**calibration, "on_gpus": on_gpus}), ffn.sites(network)
    if on_gpus:  # which keep both sums in float32; least squares are solved beside the GPU, in float64
        machine = beside.spared + 8 * max(site.in_features for site in sites) ** 2
    else:
        machine = sum(each.nbytes for each in network.parameters()) + beside.bytes
    measured = sites if kinds & {"second_moments", "rounds"} else ()
    matrices = sum(8 * site.in_features**2 + 4 * site.out_features**2 for site in measured)
    return Needs(machine / 1e9, matrices / 1e9)


def definitions(methods: Mapping[str, Method | None]) -> dict[str, Method]:
    """Return the methods by name. None stands for that of the default configuration."""
    return {name: own or DEFAULT.method(name) for name, own in methods.items()}


def with_vocabularies(
    methods: Mapping[str, Method | None], sizes: Sequence[int | str | None], folder: Path
) -> tuple[dict[str, Method], str]:
    """Return each method with each of these as its `vocabulary`, and a note of them. folder: the model's.

    Methods of several sizes have names of their own. Raises InputError where its tokenizer cannot be cut, or not to so
    many tokens."""
    kept = []
    for size in sizes:
        try:
            kept.append(f"{Tokenizer(folder).budget(size):,}" if size else "all")
        except InputError as error:
            raise InputError(f"--vocabulary {size}: {str(error).removeprefix(f'vocabulary: {size}: ')}") from None
    found = {}
    for (name, own), size in product(definitions(methods).items(), sizes):
        distinct = f"_vocabulary_{size}".replace("%", "pct").replace(".", "_") if size and len(sizes) > 1 else ""
        found[name + distinct] = own.model_copy(update={"vocabulary": size})
    said = f"Pruned models keep {' or '.join(kept)} tokens. Texts are compared in bits per byte."
    return found, said


def large_vocabulary(stock: Any, parameters: int, folder: Path) -> list[str]:
    """Return a note where a smaller vocabulary may well save more, and cost less, than neurons do. stock: the text
    part's configuration. folder: the model's.

    Measured with Qwen2.5's 151,936 tokens (docs/howto/vocabulary.md); of SmolLM2's 49,152 it is worth less."""
    share = stock.vocab_size * stock.hidden_size * (1 if stock.tie_word_embeddings else 2) / parameters
    if stock.vocab_size < LARGE_VOCABULARY or share < LARGE_SHARE:
        return []
    try:
        Tokenizer(folder)
    except InputError:  # of a kind that cannot be cut
        return []
    said = f"{share:.0%} of the parameters are those of {stock.vocab_size:,} tokens, few of which a task needs"
    return [f"{said}: try --vocabulary 30%."]


def unread(methods: Mapping[str, Method], shape: Mapping[str, Any]) -> list[str]:
    """Return a note where llama.cpp does not read what the methods make of the model. shape: its config.json."""
    remedy = "add --gguf, which keeps them equal" if {*methods} <= {*EFFORTS} else "take one of `allocate: uniform`"
    uneven = [name for name, method in methods.items() if method.uneven]
    if not uneven or shape["model_type"] not in {*architectures.STOCK} - {*architectures.AS_DECI}:
        return []  # of a family that has no GGUF file at all, --gguf would be refused
    said = f"{', '.join(uneven)}: layers of different widths, which llama.cpp does not read in {shape['model_type']}"
    return [f"{said}: for a GGUF file {remedy}."]
