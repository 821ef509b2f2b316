"""What models with random weights cost that have so many units in every layer (methods/latency_table.py)."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from transformers import PreTrainedModel

from pruning.analysis.latency import measure, narrowed, prefill_flops
from pruning.core.errors import InputError
from pruning.methods.allocation import levels
from pruning.methods.masks import GROUPS, NEURONS
from pruning.models import structures
from pruning.models.structures import kv_groups


def unpruned(raw: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of a stock model of which one with this config.json may be a part: as wide as its widest layer."""
    own = {*structures.keys(), "auto_map"}
    return {key: value for key, value in raw.items() if key not in own}


def by_units(
    dense: PreTrainedModel, prompt_tokens: int, decode_tokens: int, rounds: int, warmup: int, seed: int
) -> pd.DataFrame:
    """Of FFN neurons and of key-value groups, all of the others being there.

    Columns: structure, units; `flops` of a prefill; `prefill` and `decode`, seconds for the prompt and for a token
    after it: the median over rounds of the ratio to the dense model's time, in the median of that. Widths are
    sixteenths of the dense one, from none; groups from one, where attention has any that can be cut."""
    layers, full = dense.config.num_hidden_layers, dense.config.intermediate_size
    try:
        kv_groups.sites(dense)
        whole = dense.config.num_key_value_heads
    except InputError:  # none that can be cut
        whole = 0
    shapes = {(NEURONS, width): {"widths": [width] * layers} for width in (full, *levels(full, 0))}
    for count in range(1, whole + 1):
        shapes[GROUPS, count] = {"widths": [full] * layers, "groups": [count] * layers}
    labels = {key: "dense" if key in ((NEURONS, full), (GROUPS, whole)) else "/".join(map(str, key)) for key in shapes}
    models = {"dense": dense}
    models |= {label: narrowed(dense, **shapes[key]) for key, label in labels.items() if label != "dense"}
    samples = measure(models, prompt_tokens, decode_tokens, rounds, warmup, seed)
    samples["decode_s"] /= decode_tokens
    rows = []
    for (structure, units), label in labels.items():
        shape = shapes[structure, units]
        row = {
            "structure": structure,
            "units": units,
            "flops": prefill_flops(dense.config, tokens=prompt_tokens, **shape),
        }
        for part in ("prefill", "decode"):
            seconds = samples.pivot(index="round", columns="variant", values=f"{part}_s")
            row[part] = (seconds[label] / seconds["dense"]).median() * seconds["dense"].median()
        rows.append(row)
    return pd.DataFrame(rows).sort_values(["structure", "units"], ignore_index=True)
