"""What was measured of an exported model, for its card."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pruning.analysis import comparison
from pruning.core import artifacts
from pruning.core.names import DENSE, Variant, sample_of


def measures(settings: Mapping[str, Any], samples: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Yield each task's metrics: what was measured of the exported model (`pruned`), and of the dense one, if it was.

    settings: `variant`, `tasks`, and those of comparison.measure. samples: the model's outcomes that are there."""
    paths = {sample_of(path.as_posix())[1:]: path for path in samples}
    sides = {"pruned": str(Variant(**settings["variant"])), "dense": str(DENSE)}
    for task, own in settings["tasks"].items():
        for metric in own["metrics"]:
            kind = comparison.kind_of(metric, own["kind"])
            row = {"title": own["title"], "metric": metric, "parts": own.get("parts"), **dict.fromkeys(sides)}
            for side, variant in sides.items():
                if path := paths.get((variant, task)):
                    frame = artifacts.read_parquet(path, "samples")
                    outcomes = comparison.outcomes_of(frame, variant, task, metric, kind)
                    row[side] = comparison.measure(outcomes, kind, settings)
            yield row
