"""What of a configuration is not for mixtures of experts, and what is for them alone, before any job."""

from collections.abc import Iterable, Mapping
from typing import Any

from pruning.config.methods import NEURONS_INSIDE, Method
from pruning.config.schema import Config
from pruning.core.errors import InputError, within
from pruning.methods import allocation, scores
from pruning.models import served
from pruning.models.families import EXPERTS, TOP_K, check_routed, family_of, read_config
from pruning.models.multimodal import text_shape


def check(
    config: Config,
    model: str,
    shape: Mapping[str, Any],
    pruned: Iterable[tuple[str, int]],
    tunings: Iterable[str],
) -> None:
    """Raise InputError, naming the key, for a sparsity or a tuning that is not for this model.

    shape: the model's config.json. pruned: methods and sparsities of tables."""
    if not (mixture := family_of(shape, f"models.{model}").mixture):
        return
    if config.models[model].backend == "vllm":
        with within(f"models.{model}: "):
            served.check_router(shape)
    whole = next(shape[key] for key in EXPERTS if shape.get(key))
    source = config.models[model].source
    counted = source.kind != "pruned"  # of others, against what the first model had
    narrowed = not counted and NEURONS_INSIDE in allocation.structures_of(config.method(source.method).allocate)
    for name, _ in sorted(pruned) if narrowed else ():  # sparsities count against the first model
        said = f"its experts were made narrower by {source.method} before, and how wide they were at first is lost"
        raise InputError(f"methods.{name}.allocate: {model}: {said}: prune the first model by the whole sparsity")
    for name, sparsity in sorted(pruned) if counted else ():
        if config.method(name).allocate != "uniform":
            continue
        with within(f"{model}, {name} at {sparsity}%: "):
            check_routed(whole, shape[TOP_K], int(allocation.kept(whole, sparsity)))
    for tuning in sorted(tunings):
        if own := sorted({*config.tunings[tuning].targets} & {*mixture.matrices, "gate_up_proj"}):
            remedy = "tune attention, as q_proj, k_proj, v_proj and o_proj"
            said = f"{own} are no linear modules in {model}, a mixture of experts"
            raise InputError(f"tunings.{tuning}.targets: {said}: {remedy}")


def check_clock(config: Config, model: str) -> None:
    """Raise InputError for a model that is not timed by its shape: a mixture of experts, where its config.json is
    there."""
    folder = config.folder(model)
    if not (folder / "config.json").is_file():
        return
    if family_of(text_shape(read_config(folder), f"models.{model}"), f"models.{model}").mixture:
        said = "mixtures of experts are timed as they are (`tradeoff`), not by their shape"
        raise InputError(f"models.{model}: {said}: ask for no latency, latency table or budget of time of it")


def check_method(method: Method, place: str, model: str, shape: Mapping[str, Any]) -> None:
    """Raise InputError, naming the key at a place, for a method that is not for this model."""
    if family_of(shape, f"models.{model}").mixture:
        for key, why in _unfit(method).items():
            raise InputError(f"{place}{key}, and {model} is a mixture of experts: {why}")
    elif scores.plugin(method.score).mixtures:
        raise InputError(f"{place}score: {method.score} is for mixtures of experts, and {model} is none")
    elif NEURONS_INSIDE in allocation.structures_of(method.allocate):
        raise InputError(f"{place}allocate: {method.allocate} is for mixtures of experts, and {model} is none")


def _unfit(method: Method) -> dict[str, str]:
    """Return what of a method is not for mixtures: `key: value` -> what to do."""
    found, needed = {}, scores.plugin(method.score).requires
    if needed != ("statistics",):
        can = ", ".join(name for name in scores.BUILT_IN if scores.plugin(name).requires == ("statistics",))
        found[f"score: {method.score}"] = f"{' and '.join(needed)} are measured of FFN neurons alone; use one of {can}"
    if method.allocate not in ("uniform", NEURONS_INSIDE):
        found[f"allocate: {method.allocate}"] = f"every layer keeps as many; use `uniform` or `{NEURONS_INSIDE}`"
    if method.compensate != "none":
        found[f"compensate: {method.compensate}"] = "this refits for FFN neurons that are gone; use `none`"
    if method.drop_layers:
        found["drop_layers: true"] = f"every layer keeps {TOP_K} experts; leave it out"
    if method.export == "pad":
        found["export: pad"] = "the config of what is left is a stock one; use `exact`"
    return found
