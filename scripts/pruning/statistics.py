"""The calibration statistics: which columns there are, and how shards merge.

Every column is a sum over calibration samples or tokens, so shards merge by adding up, in any order.
One row is one FFN neuron; a = down_proj's input, g = d objective / d a, p = a * g:

n_tokens, n_samples      counted tokens and samples
act_sum                  sum_{x,t} a
act_abs_sum              sum_{x,t} |a|
act_sq_sum               sum_{x,t} a^2
act_mean_abs_sq_sum      sum_x (mean_t |a|)^2
<obj>_net_abs_sum        sum_x |sum_t p|
<obj>_net_sq_sum         sum_x (sum_t p)^2
<obj>_abs_sum            sum_x sum_t |p|
<obj>_sq_sum             sum_x sum_t p^2
<obj>_share_sum          sum_x [ sum_t |p_c| / sum_{j in layer} sum_t |p_j| ]
<obj>_grad_sq_sum        sum_{x,t} g^2
"""

from collections.abc import Sequence

import pandas as pd

from pruning.errors import InputError

OBJECTIVES = ("energy", "ce")
ACTIVATION = ("act_sum", "act_abs_sum", "act_sq_sum", "act_mean_abs_sq_sum")
GRADIENT = ("net_abs_sum", "net_sq_sum", "abs_sum", "sq_sum", "share_sum", "grad_sq_sum")
COUNTS = ("n_tokens", "n_samples")
NEURON_COLUMNS = (*COUNTS, *ACTIVATION, *(f"{o}_{c}" for o in OBJECTIVES for c in GRADIENT))
LAYER_COLUMNS = ("n_tokens", "angular_sum")  # angular_sum: sum_t arccos(cos(h_in, h_out)) / pi, CFSP's coarse measure


def merge(frames: Sequence[pd.DataFrame], keys: Sequence[str]) -> pd.DataFrame:
    """Add up shards row by row. Raises InputError if they do not hold the same rows (another model's shard, say)."""
    indexed = [frame.set_index(list(keys)).sort_index() for frame in frames]
    for frame in indexed[1:]:
        if not frame.index.equals(indexed[0].index) or list(frame.columns) != list(indexed[0].columns):
            raise InputError("calibration shards hold different neurons or columns; delete the shards and run again")
    return sum(indexed[1:], start=indexed[0]).reset_index()
