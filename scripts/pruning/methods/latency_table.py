"""What a layer's units, as the neurons of its FFN, cost in operations and in time on the machine at hand: a
table with which an allocation keeps to a speed rather than to a size, as in ZipLM (Kurtic et al. 2023, arXiv
2302.04089).

Its rows are of whole models that have so many units in every layer (scripts/timing.py).
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from pruning.core.errors import InputError, within
from pruning.methods.masks import NEURONS

PARAMETERS = "parameters"
PER = (PARAMETERS, "flops", "prefill", "decode")
"""What an allocation may count (its option `per`); all but the first are columns of the table."""


def per_of(options: Mapping[str, Any]) -> str:
    """Of an allocation's options. Raises ValueError for what cannot be counted."""
    if (per := options.get("per", PARAMETERS)) not in PER:
        raise ValueError(f"per: unknown {per!r}; known: {', '.join(PER)}")
    return per


def check_given(options: Mapping[str, Any], latencies: pd.DataFrame | None) -> None:
    """Raises InputError where an allocation's options name no cost, or one that there is no table of."""
    with within("options: ", kind=ValueError):
        per = per_of(options)
    if latencies is None and per != PARAMETERS:
        raise InputError(f"options: {dict(options)} allocate by speed: give `latencies` (methods/latency_table.py)")


def prices(table: pd.DataFrame, per: str, structure: str) -> Callable[[np.ndarray], np.ndarray]:
    """A function from numbers of units, any shape, to what they cost above the least number measured, in all layers.

    Between measured numbers it is linear; more units never cost less: what the clock says otherwise is its noise, and
    the nearest curve in squares that never falls stands for it (isotonic regression, Barlow et al. 1972).
    Raises InputError if all numbers cost the same."""
    from scipy.optimize import isotonic_regression  # slow, and planning reads the schemes

    own = table[table["structure"] == structure].sort_values("units")
    fitted = isotonic_regression(own[per]).x if len(own) else np.zeros(1)
    if fitted[-1] <= fitted[0]:
        raise InputError(
            f"latency table: {per} of a model does not grow with its {structure}: use `per: {PARAMETERS}`, or raise "
            "`latency_table.rounds` or `prompt_tokens` if it should"
        )
    return lambda units: np.interp(units, own["units"], fitted) - fitted[0]


def neurons_worth(table: pd.DataFrame, per: str, structure: str) -> float:
    """Neurons that cost as much as a unit of a structure, on average over all that a layer has.

    Raises InputError as `prices` does."""
    rates = {}
    for name in (NEURONS, structure):
        units = table.loc[table["structure"] == name, "units"]
        rates[name] = prices(table, per, name)(units.max()) / (units.max() - units.min())
    return float(rates[structure] / rates[NEURONS])
