"""What a model costs at a sparsity, and the least sparsity at which it costs no more than a budget.

Parameters and bytes are counted, at every per cent. Times are measured: a candidate in turn with the dense model, so
that their ratio holds on a machine that is not quiet; a time in ms is that ratio times the dense model's median.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from safetensors import safe_open

from pruning.core.errors import InputError
from pruning.methods import compact
from pruning.models.checkpoint import Checkpoint

MOST = 99  # Per cent: sparsities are whole, from 1
COUNTED = ("parameters", "bytes")  # Kinds of budget that nothing is measured for
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True)
class Cost:
    value: float
    low: float  # Ends of its interval; of what is counted, the value
    high: float


def _stored(base: Checkpoint, name: str) -> int:
    """Return the bytes of one number of a tensor."""
    with safe_open(base.file_of[name], "pt") as tensors:
        return BYTES[tensors.get_slice(name).get_dtype()]


class Sizes:
    """Parameters or bytes of a model pruned to any units, without making it."""

    notes: Mapping[str, Any] = {}  # How they are measured

    def __init__(self, base: Checkpoint, kind: str, biased: bool = False, tokens: int | None = None):
        """kind: `parameters` or `bytes`. biased, tokens: as in compact.parameters."""
        stored = partial(_stored, base) if kind == "bytes" else lambda _: 1
        size = partial(compact.parameters, base, stored=stored)
        self.base, self.dense, main = base, size({}), base.main.name
        self.empty, ones = (size({main: [width] * base.layers}, biased, tokens) for width in (0, 1))
        self.neuron = (ones - self.empty) // sum(width > 0 for width in base.widths)  # a dropped layer has none to cut
        self.unit = cache(lambda structure: base.size(structure) * stored(base.site(structure, 0)))

    def cost(self, units: Mapping[str, Sequence[int]]) -> Cost:
        """units: structure -> those that each layer keeps; of a structure that is not there all stay. Raises InputError
        as Checkpoint.units does."""
        main = self.base.main.name
        others = {name: sum(self.base.units(name)) - sum(own) for name, own in units.items() if name != main}
        removed = sum(self.unit(name) * count for name, count in others.items())
        size = self.empty + self.neuron * int(sum(units[main])) - removed
        return Cost(size, size, size)


def number(value: float) -> str:
    """What is counted is shown whole, as a budget may be given."""
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def unmet(what: str, target: str, least: Cost, at: str) -> InputError:
    """A budget that no pruning meets. Args: texts of the kind, the target, and where the least is had."""
    shown = number(least.value) + (f" [{number(least.low)}, {number(least.high)}]" if least.low < least.high else "")
    return InputError(f"budget: {what}: {target} cannot be reached: the least is {shown}, {at}")


def nothing(what: str, target: str, dense: float) -> InputError:
    return InputError(f"budget: {what}: the dense model's {number(dense)} meet {target}: nothing to prune")


def least(meets: Callable[[int], bool], kind: str, first: int = 1) -> int | None:
    """Return the least sparsity that meets a target of a kind, None if none does. first: 0 where a smaller vocabulary
    may be enough.

    What is counted is tried at all. Times, which fall as sparsity grows, are measured at seven and at MOST; one meets
    the target if the whole of its interval does: a model is rather a little smaller than over budget by a clock's
    noise."""
    if kind in COUNTED:
        found = [sparsity for sparsity in range(first, MOST + 1) if meets(sparsity)]
        return found[0] if found else None
    return bisect_left(range(first, MOST), True, key=meets) + first if meets(MOST) else None
