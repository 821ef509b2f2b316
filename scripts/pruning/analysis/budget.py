"""What a model costs at a sparsity, and the least sparsity at which it costs no more than a budget.

Parameters and bytes are counted, at every per cent. Times are measured: a candidate in turn with the dense model, so
that their ratio holds on a machine that is not quiet; a time in ms is that ratio times the dense model's median.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from safetensors import safe_open

from pruning.core.errors import InputError
from pruning.methods import compact
from pruning.models.checkpoint import Checkpoint

MOST = 99
"""Per cent: sparsities are whole, from 1."""
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True)
class Cost:
    value: float
    low: float
    """Ends of its interval; of what is counted, the value."""
    high: float


def counted(value: float) -> Cost:
    return Cost(value, value, value)


class Sizes:
    """Parameters or bytes of a model pruned to any widths and key-value groups, without making it."""

    def __init__(self, base: Checkpoint, kind: str, biased: bool = False):
        """kind: `parameters` or `bytes`. biased: as in compact.parameters."""
        self.empty = compact.parameters(base, [0] * base.layers, biased)
        one = np.eye(base.layers, dtype=int).tolist()
        self.neuron = np.array([compact.parameters(base, widths, biased) - self.empty for widths in one])
        self.dense, unit = base.parameters, 1
        if kind == "bytes":  # what is cut, and biases that are added, are of the dtype of down
            unit = BYTES[dtype(base, base.name(0, "down"))]
            whole = sum(int(np.prod(base.shape(name))) * BYTES[dtype(base, name)] for name in base.file_of)
            self.empty, self.dense = whole - unit * (self.dense - self.empty), whole
        self.neuron = self.neuron * unit
        self.base, self.kind = base, kind

    @cached_property
    def group(self) -> int:
        """Of one key-value group of a layer; raises InputError as Checkpoint.units does."""
        stored = BYTES[dtype(self.base, self.base.site("kv_groups", 0))] if self.kind == "bytes" else 1
        return self.base.size("kv_groups") * stored

    def of(self, widths: Sequence[int], groups: Sequence[int] | None = None) -> int:
        """groups: that stay, a layer; None: all."""
        whole = self.empty + int(self.neuron @ np.asarray(widths))
        return whole if groups is None else whole - self.group * (sum(self.base.units("kv_groups")) - sum(groups))


def dtype(base: Checkpoint, name: str) -> str:
    """Of a tensor as it is stored."""
    with safe_open(base.file_of[name], "pt") as tensors:
        return tensors.get_slice(name).get_dtype()


def number(value: float) -> str:
    """Of what is counted, whole, as a budget may be given."""
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def unmet(what: str, target: str, least: Cost, at: str) -> InputError:
    """A budget that no pruning meets. Args: texts of the kind, the target, and where the least is had."""
    shown = number(least.value) + (f" [{number(least.low)}, {number(least.high)}]" if least.low < least.high else "")
    return InputError(f"budget: {what}: {target} is less than can be had: the least is {shown}, {at}")


def nothing(what: str, target: str, dense: float) -> InputError:
    return InputError(f"budget: {what}: the dense model's {number(dense)} meet {target}: nothing to prune")


def scanned(costs: Mapping[int, Cost], target: float) -> int | None:
    """The least sparsity that meets a target, of all that there are; None where none does."""
    return next((sparsity for sparsity in sorted(costs) if costs[sparsity].high <= target), None)


def bisected(cost: Callable[[int], Cost], target: float) -> int | None:
    """The same in seven measurements and one at MOST, where costs fall as sparsity grows.

    A sparsity meets the target if the whole of its interval does: a model is rather a little smaller than over budget
    by the noise of a clock."""
    if cost(MOST).high > target:
        return None
    return bisect_left(range(1, MOST), True, key=lambda sparsity: cost(sparsity).high <= target) + 1
