"""Which methods `prune` compares unless it is told, and what a user should know of them before anything runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pruning.config.default import DEFAULT
from pruning.core.errors import InputError
from pruning.methods.compensation import TOKENS_A_COLUMN
from pruning.models.families import has_plain_residual

BEST = ("attention_obs", "wanda")
SCALED = ("sequential_obs", "wanda")  # where the residual stream is not plain
WITHOUT_REFITS = ("cfsp", "wanda")


class Refits(NamedTuple):
    """What refitting a model's weights takes, in GB."""

    memory: float
    """Of the machine, by the largest job."""
    disk: float
    """While they run."""

    def lacking(self, memory: float, disk: float) -> str | None:
        """Why they cannot run in so much; None if they can."""
        for what, needed, there in (("memory", self.memory, memory), ("disk", self.disk, disk)):
            if needed > there:
                return f"refits take {needed:.1f} GB of {what}, {there:.1f} GB are there"
        return None


def refits(folder: Path, dtype: str, calibration: Mapping[str, Any], on_gpus: bool) -> Refits:
    """Of a model in a folder, by rehearsal. calibration: `micro_batch` and `sequence_length`."""
    from pruning.calibration import footprint  # slow
    from pruning.models import rehearsal
    from pruning.models.structures import ffn

    network = rehearsal.network(folder, dtype)
    weights, beside = sum(each.nbytes for each in network.parameters()), footprint.REFIT.taken(network, calibration)
    sites = ffn.sites(network)
    machine = weights + beside.bytes
    if on_gpus:  # which keep both sums in float32; least squares are solved beside the GPU, in float64
        machine = beside.spared + 8 * max(site.in_features for site in sites) ** 2
    matrices = sum(8 * site.in_features**2 + 4 * site.out_features**2 for site in sites)
    return Refits(machine / 1e9, matrices / 1e9)


def refitted(methods: Sequence[str]) -> list[str]:
    """Those that refit weights. A name that is no method's is the workflow's to refuse."""
    return [name for name in known(methods) if DEFAULT.method(name).compensate.startswith("ridge")]


def known(methods: Sequence[str]) -> list[str]:
    """Those that are methods of the default configuration."""
    return [name for name in methods if name in set(DEFAULT.method_names)]


def chosen(asked: Sequence[str] | None, shape: Mapping[str, Any], lacking: str | None) -> tuple[list[str], list[str]]:
    """The methods, and what to say where they are not the usual ones.

    asked: by the user, or None. shape: the model's config.json. lacking: what refits lack here, if anything.
    Raises InputError if the user asked for what cannot run here."""
    if asked:
        if lacking and (named := refitted(asked)):
            instead = ",".join(dict.fromkeys([*(name for name in asked if name not in named), *WITHOUT_REFITS]))
            raise InputError(f"--methods {','.join(named)}: {lacking}: use --methods {instead}")
        return list(asked), []
    if lacking:
        return list(WITHOUT_REFITS), [f"{WITHOUT_REFITS[0]} stands in for {BEST[0]}, which cannot run here: {lacking}."]
    if not has_plain_residual(shape):
        why = f"{shape['model_type']} normalises or scales what its layers add to the residual stream"
        return list(SCALED), [f"{SCALED[0]} stands in for {BEST[0]}, which cannot refit this model: {why}."]
    return list(BEST), []


def check_gguf(methods: Sequence[str], folder: Path) -> None:
    """Raises InputError if a GGUF file cannot be made of a model, or not of what one of these methods makes of it; it
    names those that can be taken instead. folder: the dense model's."""
    from pruning.methods.allocation import structures_of
    from pruning.models import gguf

    gguf.check_model(folder)
    for name, own in ((name, DEFAULT.method(name)) for name in known(methods)):
        uneven = own.allocate != "uniform" and own.export != "pad"
        try:
            gguf.check_model(folder, uneven, own.compensate == "bias", len(structures_of(own.allocate)) > 1)
        except InputError as error:
            fitting = [each for each in known([*methods, "wanda"]) if DEFAULT.method(each).allocate == "uniform"]
            raise InputError(f"--gguf: {name}: {error}; here --methods {fitting[0]}") from None


def remarks(
    methods: Sequence[str], shape: Mapping[str, Any], width: int, calibration: Mapping[str, Any], sparsity: int
) -> list[str]:
    """What the methods' results are to be read with.

    width: neurons of the widest layer; sparsity: the least, in per cent, 0 where it is not known yet; calibration:
    `samples` and `sequence_length`."""
    from pruning.calibration.second_moments import HELD_OUT_EVERY  # torch is slow
    from pruning.models import gguf

    said = []
    samples, columns = calibration["samples"], round(width * (1 - sparsity / 100))
    tokens = (samples - samples // HELD_OUT_EVERY) * calibration["sequence_length"]
    if (named := refitted(methods)) and tokens < TOKENS_A_COLUMN * columns:
        said.append(
            f"{', '.join(named)}: {tokens:,} calibration tokens fit {columns:,} columns a layer, fewer than "
            f"{TOKENS_A_COLUMN} a column: what is refitted may do worse on other text. Give more records, or raise "
            "`samples` in prune.yaml and run its workflow."
        )
    uneven = [name for name in known(methods) if DEFAULT.method(name).allocate != "uniform"]
    if uneven and not gguf.takes(shape["model_type"], [1, 2]):
        said.append(
            f"{', '.join(uneven)}: layers of different widths, which llama.cpp does not read in "
            f"{shape['model_type']}: for a GGUF file take a method with `allocate: uniform`, as wanda."
        )
    return said
