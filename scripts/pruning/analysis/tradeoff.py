"""Which of a table's models no other beats: in quality against size, time of prefill and time of decoding."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from pruning.core.names import Variant

FRONT, NEAR, BEHIND = "front", "near", "behind"
COSTS = ("size", "prefill", "decode")


def joined(quality: pd.DataFrame, speed: pd.DataFrame, task: str, metric: str) -> pd.DataFrame:
    """Return one row per model of the tables (`quality`, rows of analysis/comparison.py), with what scripts/timing.py
    measured of it (`speed`); the dense model's once."""
    rows = quality[(quality["task"] == task) & (quality["metric"] == metric)]
    rows = rows.assign(variant=[str(variant_of(row)) for row in rows.to_dict("records")])
    rows = rows.drop_duplicates(["model", "variant"])
    return rows.merge(speed, on=["model", "variant"], how="left", validate="one_to_one")


def variant_of(row: Mapping[str, Any]) -> Variant:
    """Return the variant whose results a row of a table holds."""
    if row["method"] == "dense":
        return Variant()
    tuning = row["tuning"] if isinstance(row["tuning"], str) and row["tuning"] else None
    return Variant(row["calib"], row["method"], round(100 * row["sparsity"]), tuning)


def places(models: pd.DataFrame, cost: str, higher_is_better: bool) -> list[str]:
    """Return where each row of one model and calibration lies in quality against a cost (COSTS): `front`, `near` or
    `behind`.

    A row is behind if another of better quality is not clearly more expensive (the intervals of their costs overlap, or
    it is cheaper), or one as good is clearly cheaper: so that no model gets to the front by the noise of a clock. It is
    near if the quality's interval reaches into that of every such other."""
    sign = 1 if higher_is_better else -1
    value = sign * models["value"].to_numpy()
    low, high = np.sort(sign * models[["ci_low", "ci_high"]].to_numpy(), axis=1).T
    least, most = cost_ends(models, cost)
    better, as_good = value[None, :] > value[:, None], value[None, :] == value[:, None]  # [i, j]: j than i
    beaten = better & (least[None, :] <= most[:, None]) | as_good & (most[None, :] < least[:, None])
    apart = beaten & (low[None, :] > high[:, None])
    return [BEHIND if far else NEAR if some else FRONT for some, far in zip(beaten.any(1), apart.any(1), strict=True)]


def cost_ends(models: pd.DataFrame, cost: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the intervals of a cost, times as shares of the dense model's; of sizes, those that are less
    than a hundredth apart count as equal."""
    if cost == "size":
        return 0.995 * models["bytes"].to_numpy(), 1.005 * models["bytes"].to_numpy()
    ends = (models[f"{cost}_speedup_{end}"].fillna(models[f"{cost}_speedup"]).to_numpy() for end in ("high", "low"))
    return tuple(1 / end for end in ends)
