"""What a program calls, on models in memory. The workflow's stages call the functions beneath these as well, so both
give the same bits (tests/pipeline/test_functions.py)::

    statistics = calibrate(model, batches)                 # sums over calibration text, per neuron and per layer
    scores = score("rku", statistics, model)               # one number per neuron, higher is more important
    mask = allocate(scores, 0.3, "uniform")                # which neurons stay
    small = compact(model, mask)                           # a physically smaller nn.Module
    small = reconstruct(small, model, batches, mask)       # kept weights fitted to the dense model's outputs

`model` is a transformers model of one of the families in models/families.py, on any device; no function changes it.
What these functions refuse they say in an InputError (a ValueError), which names the argument and what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruning.core import arguments
from pruning.core.errors import InputError

if TYPE_CHECKING:  # all of this is slow: it is imported where it is used
    import numpy as np
    import pandas as pd
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from pruning.calibration.prepare import Batch

__all__ = ["Result", "Statistics", "allocate", "calibrate", "compact", "load", "prune", "reconstruct", "score"]


@dataclass(frozen=True)
class Statistics:
    """What was measured of a dense model on calibration text, by kind (docs/artefacts.md)."""

    tables: Mapping[str, pd.DataFrame]
    """`statistics`: one row per neuron; `layers`: one row per layer; all columns are sums (calibration/columns.py)."""
    matrices: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    """`second_moments`, `output_gradients`: for each layer its matrices, with counts of tokens."""

    @property
    def neurons(self) -> pd.DataFrame:
        """The table `statistics`: `layer`, `unit`, `n_tokens`, `n_samples`, `act_sq_sum`, `energy_share_sum`, …"""
        return self.tables["statistics"]

    @property
    def layers(self) -> pd.DataFrame:
        """The table `layers`: `layer`, `n_tokens`, `angular_sum`."""
        return self.tables["layers"]


@dataclass(frozen=True)
class Result:
    """What `prune` found."""

    table: pd.DataFrame
    """One row per model, the dense one first: quality, size and speed (command/decision.py lists the columns)."""
    best: Path
    """Folder of the model to take, for `load`, transformers or vLLM."""
    page: str
    """The page to decide by, Markdown."""


def calibrate(
    model: PreTrainedModel,
    batches: Iterable[Batch | Tensor | Mapping[str, Tensor]],
    objectives: Sequence[str] = ("energy", "ce"),
    needs: Sequence[str] = ("statistics",),
    structures: Sequence[str] = ("ffn",),
    seed: int = 0,
) -> Statistics:
    """Measure a dense model on calibration text: a forward pass, and a backward pass to the activations per objective.

    batches: token ids, int64 [samples, tokens]; or what a tokenizer gives (`input_ids`, `attention_mask`, padded on
    the right, and `labels`, -100 where the objectives do not look). objectives: whose gradients are measured
    (core/objectives.py). needs: what scores are made of (their REQUIRES): `statistics`, `second_moments`,
    `output_gradients`, `parameter_taylor`; of mixtures of experts the first. structures: those that the allocation cuts
    (its STRUCTURES), `ffn` for experts, too. seed: of the tokens that output gradients are drawn for.

    Raises InputError for an unknown need or objective, at a NaN or Inf (naming layer and sample), for batches padded on
    the left, and for a model of no family that can be pruned. Sources: calibration/gradients.py and its neighbours."""
    from pruning.calibration import gradients, output_gradients, parameter_gradients, prepare
    from pruning.core.layer_files import kind_of
    from pruning.core.objectives import OBJECTIVES
    from pruning.methods import evidence
    from pruning.models import families, in_memory
    from pruning.models.structures import STRUCTURES, of_model

    arguments.known("needs", needs, ("statistics", "second_moments", "output_gradients", "parameter_taylor"))
    arguments.known("objectives", objectives, OBJECTIVES)
    arguments.known("structures", structures, STRUCTURES)
    batches, tables, matrices = prepare.as_batches(batches), {}, {}
    structures = of_model(structures, families.of(model))
    arguments.token_ids(batches, model.get_input_embeddings().weight.shape[0])
    if families.of(model).mixture and {*needs} != {"statistics"}:
        raise InputError(f"needs: of a mixture of experts `statistics` are measured, not {', '.join(needs)}")
    with in_memory.frozen(model):
        for name in structures:
            if "statistics" in needs:
                neurons, layers = gradients.statistics(model, batches, objectives, name)
                tables[kind_of("statistics", name)] = neurons
                tables.setdefault("layers", layers)
            if "parameter_taylor" in needs:
                at_once = parameter_gradients.layers_that_fit(model, structure=name)
                own = parameter_gradients.table(model, batches, at_once, structure=name)
                tables[kind_of("parameter_taylor", name)] = own
            if "second_moments" in needs:
                matrices[kind_of("second_moments", name)] = [*evidence.moments(model, batches, name)]
            if "output_gradients" in needs:
                sums, tokens = output_gradients.output_gradients(model, batches, seed, structure=name)
                found = [{"gradients": (own / tokens).numpy(), "tokens": tokens} for own in sums]
                matrices[kind_of("output_gradients", name)] = found
    return Statistics(tables, matrices)


def score(
    method: str | Callable[..., np.ndarray],
    statistics: Statistics,
    model: PreTrainedModel,
    structures: Sequence[str] = ("ffn",),
    **changes: Any,
) -> pd.DataFrame:
    """Score every unit of a model; a higher score is a more important unit.

    method: a method of config/config.yaml (`rku`, `wanda`, `obs`, …), of which this takes the score; or a score: a file
    of methods/scores or an entry point `pruning.scores` of an installed package; or a function from a layer
    (methods.scores.Layer) to float64 [units]. statistics: what `calibrate` measured of this very model. changes:
    `options` (keywords of the score), `normalise`, `shuffle`, in the place of the method's.

    Returns one row per unit: `layer`, `unit`, `score`; of several structures, or experts, `structure` and `parameters`.
    Raises InputError for an unknown name, for what was not measured, and for a score that is not finite or not one per
    unit. Source: methods/scoring.py."""
    from pruning.config.default import DEFAULT
    from pruning.core.layer_files import kind_of
    from pruning.methods import scores, scoring
    from pruning.models.checkpoint import Loaded
    from pruning.models.structures import of_model

    settings = {"score": method, "options": {}, "normalise": "none", "shuffle": None}
    if not callable(method):
        if method in set(DEFAULT.method_names):
            own = DEFAULT.method(method)
            settings = {key: getattr(own, key) for key in settings}
        scores.check(settings["score"])
    arguments.known("score", changes, [key for key in settings if key != "score"])
    arguments.known("normalise", [changes.get("normalise", "none")], scoring.NORMALISATIONS)
    base = Loaded(model)
    arguments.returned("statistics", statistics, Statistics, "calibrate")
    structures = of_model(structures, base.family)
    scoring.check_model(statistics.tables, statistics.matrices, structures, base)

    def read(index: int, name: str, kind: str) -> Mapping[str, Any]:
        return statistics.matrices[kind_of(kind, name)][index]

    return scoring.scored(settings | changes, structures, statistics.tables, statistics.matrices, read, lambda: base)


def allocate(
    scores: pd.DataFrame,
    sparsity: float,
    scheme: str = "uniform",
    statistics: Statistics | None = None,
    min_keep: float | None = 0.01,
    round_to: int = 1,
    options: Mapping[str, Any] | None = None,
    measured: pd.DataFrame | None = None,
    latencies: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Decide which units stay: the best ones of each layer, as many as a scheme gives it.

    scores: of `score`. sparsity: share of the FFN neurons to remove, between 0 and 1; a scheme that cuts attention as
    well removes as many parameters. scheme: a file of methods/allocation. statistics: of `calibrate`, for schemes that
    look at layers (`cfsp`). min_keep: least share of a layer that stays, None where it may lose all. round_to: layers'
    widths are multiples of it. options: keywords of the scheme. measured, latencies: what cuts cost and how fast models
    are, for schemes that look at that (methods/sensitivity.py, methods/latency_table.py).

    Returns one row per unit: `layer`, `unit`, `keep` (bool), and `structure` where there are several. Raises InputError
    for an unknown scheme, for what it needs and does not get, and where nothing would stay. Source:
    methods/allocation/__init__.py."""
    from pruning.config.base import keywords
    from pruning.config.methods import ALLOCATIONS
    from pruning.methods import allocation, latency_table, masks

    arguments.columns("scores", scores, ("layer", "unit", "score"), "score")
    arguments.finite("scores", scores["score"])
    arguments.known("scheme", [scheme], ALLOCATIONS)
    arguments.known("options", options or {}, keywords(allocation.plugin(scheme).widths, options or {}))
    if lacking := {*allocation.structures_of(scheme)[1:]} - {*(there := masks.structures_of(scores))}:
        said = f"also cuts {', '.join(sorted(lacking))}, and the scores are of {', '.join(there)} alone"
        raise InputError(f"scheme: {scheme!r} {said}: score with those `structures` as well")
    if not isinstance(sparsity, Real) or not 0 < sparsity < 1:
        raise InputError(f"sparsity: {sparsity} is not between 0 and 1")
    arguments.share("min_keep", 0 if min_keep is None else min_keep)
    arguments.count("round_to", round_to)
    method = {"allocate": scheme, "options": dict(options or {}), "round_to": round_to}
    allocation.check_measured(scheme, measured)
    latency_table.check_given(method["options"], latencies)
    if statistics is not None:
        arguments.returned("statistics", statistics, Statistics, "calibrate")
    layers = statistics.tables.get("layers") if statistics is not None else None
    [main, *_] = masks.structures_of(scores)
    depth = 0 if layers is None else len(layers)  # of the last layers no neuron may be left
    widths = [len(own) for own in masks.by_layer(masks.of(scores, main), "score", depth)]
    if depth and main == "ffn":
        masks.check_widths(statistics.neurons, widths, "statistics: of another model than the scores")
    original = {"original": {"widths": widths}}
    problem = allocation.problem_of(scores, layers, original, min_keep, measured, latencies)
    return allocation.mask(scores, problem, round(100 * float(sparsity), 9), method)[0]


def compact(model: PreTrainedModel, mask: pd.DataFrame) -> PreTrainedModel:
    """Return a physically smaller model: without the rows and columns of the units that a mask (of `allocate`) removes.

    What is left has the same weights, bit for bit, in tensors of its own; `config` says the widths, so that
    `small.save_pretrained(folder)` and `load(folder)` give the same model. Raises InputError for the mask of another
    model. Source: methods/compact.py."""
    from pruning.methods.compact import Pruning
    from pruning.models import in_memory
    from pruning.models.checkpoint import Loaded
    from pruning.models.structures import STRUCTURES

    keeps, base = _keeps(model, mask), Loaded(model)
    cut = {name for name in base.names if any(STRUCTURES[each].place(name, base.family) for each in keeps)}
    small, pruning = in_memory.copied(model, shared=cut), Pruning(base, keeps)
    pruning.apply(small)  # tensors that are shared are replaced
    in_memory.configure(small, pruning.config(pruning.units[pruning.main]))
    return small


def reconstruct(
    small: PreTrainedModel,
    model: PreTrainedModel,
    batches: Iterable[Batch | Tensor | Mapping[str, Tensor]],
    mask: pd.DataFrame,
    scheme: str = "ridge_attention",
) -> PreTrainedModel:
    """Return a compact model with weights that make up for the removed units: by least squares, or as `scheme` says.

    small: of `compact`, with this mask of the dense `model`. batches: calibration text, as of `calibrate`; every fifth
    sample is held out to choose the regularisation. scheme: a file of methods/compensation. `ridge_attention` refits
    layer by layer, on what the pruned model itself sees, attention's output projection and down_proj towards the dense
    model's residual stream; `ridge_block` trains all matrices of the layer after that; `ridge_corrective` refits
    down_proj alone; `ridge_sequential` towards the dense FFN's output, for models that normalise or scale what layers
    add; `ridge` on the dense model's activations; `bias` adds a bias (FLAP).

    Warns where there are too few tokens for the columns to fit. Raises InputError for an unknown scheme, for a model
    that it is not for, for fewer than five samples, and for another mask. Source: methods/refit.py."""
    import warnings

    from pruning.calibration import prepare
    from pruning.config.base import choices
    from pruning.config.methods import Training
    from pruning.methods import evidence
    from pruning.methods.compact import Pruning
    from pruning.models import in_memory, structures
    from pruning.models.checkpoint import Loaded

    arguments.known("scheme", [scheme], choices("methods/compensation"))
    batches, keeps, plan = prepare.as_batches(batches), _keeps(model, mask), Training().model_dump()
    arguments.token_ids(batches, model.get_input_embeddings().weight.shape[0])
    pruning = Pruning.fitted(
        Loaded(model), keeps, scheme, lambda: evidence.of_model(model, batches, keeps, scheme, plan)
    )
    pruning.must_have_cut(small)
    whole = in_memory.copied(small)
    with in_memory.frozen(model):
        pruning.rewrite(whole)
    first = {warning: layer for layer, warning in reversed(pruning.warnings.items())}
    for warning, layer in reversed(first.items()):
        warnings.warn(f"layer {layer}: {warning}", stacklevel=2)
    if pruning.biased:
        in_memory.configure(whole, {**whole.config.to_dict(), structures.DOWN_BIAS: True})
    return whole


def load(
    folder: str | Path, dtype: str | torch.dtype | None = None, device: str = "auto"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a pruned, exported or dense model and its tokenizer: eval mode, frozen weights, padding on the left.

    dtype: `float32`, `bfloat16` or `float16`, or torch's own; None: that of the stored weights. device: `cpu`, `cuda`,
    or `auto` (all GPUs that there are, else the CPU). Raises InputError if the folder is no model, lacks some weights,
    was changed since it was made, or does not fit into free memory. Source: models/loading.py."""
    from pruning.core.memory import BYTES
    from pruning.models import loading
    from pruning.models.checkpoint import Checkpoint

    if not Path(folder).is_dir():
        raise InputError(f"{folder}: no such folder")
    if dtype is not None:
        dtype = str(dtype).removeprefix("torch.")
        arguments.known("dtype", [dtype], BYTES)
    arguments.known("device", [device.partition(":")[0]], ("auto", "cpu", "cuda"))
    base = Checkpoint(Path(folder))
    stored = str(base.tensor(base.name(0, "down")).dtype).removeprefix("torch.")
    return loading.load(Path(folder), dtype or stored, device)


def prune(
    model: str,
    data: str | Path | None = None,
    sparsity: float | Sequence[float] | None = None,
    out: str | Path = "pruned",
    **rest: Any,
) -> Result:
    """Prune a model on a file of data, measure what is left, and say which model to take, as the command `prune` does.

    model: a folder, a .gguf file, `package:file.gguf`, or a repository of the hub. data: JSON Lines; None: the training
    data of one of `tasks`. sparsity: shares of the FFN neurons to remove, in whole per cents. out: folder of all
    results; a run that stopped goes on there. rest: the command's other options: `effort`, `methods`, `budget`
    (`"bytes=900MB"`), `tasks`, `tolerance` (a share, as 0.1), `cores`, … (fields of command/request.Request). Where the
    command repeats an option, give a list, or one string.

    Raises InputError for an unknown option, for data that cannot be read or are too few, and with a failed job's own
    words. Source: command/prune.py."""
    from pruning.command.prune import prune as run
    from pruning.command.request import Request, of_python

    options = {each.name for each in fields(Request)} - {"model", "data", "out", "sparsity", "yes"}
    arguments.known("prune", rest, options)
    request = of_python(model, data, sparsity, out, rest)
    shown = ", ".join(f"{key}={value!r}" for key, value in {"data": data, "sparsity": sparsity, **rest}.items())
    made = run(request, f"prune({model!r}, {shown}) of Python")
    return Result(made.models, made.folder, made.page)


def _keeps(model: PreTrainedModel, mask: pd.DataFrame) -> dict[str, list[np.ndarray]]:
    from pruning.methods import masks
    from pruning.models.checkpoint import Loaded

    arguments.columns("mask", mask, ("layer", "unit", "keep"), "allocate")
    arguments.flags("mask", mask["keep"])
    mask = mask.assign(keep=mask["keep"].astype(bool))  # rows are taken by it, and 0 and 1 would be their numbers
    return masks.keeps_of(mask, f"mask: not one of this {type(model).__name__}", Loaded(model))
