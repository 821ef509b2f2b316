"""What came of each item: lm-eval's samples, and what is on record of their answers, as one frame."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from pruning.core.artifacts import key_of
from pruning.core.errors import InputError
from pruning.evaluation.degeneration import repetition

TYPES = {
    "cluster": "string",
    "generated_tokens": "Int64",
    "finish_reason": "string",
    "repetition": "float64",
    "prompt": "string",
    "response": "string",
}
"""Of columns that may be all empty."""
COLUMNS = ["item", "item_hash", "metric", "value", "weight", "cluster", "prediction", "target", *list(TYPES)[1:]]


def frame(rows: Sequence[Mapping[str, Any]] | Mapping[str, Any]) -> pd.DataFrame:
    """One row per item and metric, in the schema of all tasks (docs/artefacts.md); columns not given are empty."""
    return pd.DataFrame(rows, columns=COLUMNS).astype(TYPES)


def outcomes(result: dict[str, Any], answers: Mapping[str, dict], metrics: Sequence[str]) -> pd.DataFrame:
    """The frame of a task of lm-eval's.

    result: lm-eval's, of one task, with samples. answers: those on record that it was made of.
    metrics: lm-eval's names, `acc` or with the filter, `exact_match,strict-match`. Items whose document names a
    `template` are clusters: they are alike.
    Raises InputError naming the metrics that the task has, if one is not among them."""
    (samples,) = result["samples"].values()
    rows, available = [], set()
    for sample in samples:
        own_filter = "" if sample["filter"] == "none" else f",{sample['filter']}"
        names = {f"{metric}{own_filter}": metric for metric in sample["metrics"]}
        available |= set(names)
        hashes = "".join(sample[h] for h in ("doc_hash", "prompt_hash", "target_hash"))
        item = {
            "item": sample["doc_id"],
            "item_hash": hashlib.sha256(hashes.encode()).hexdigest()[:16],
            "weight": 1,
            "cluster": None if (template := sample["doc"].get("template")) is None else str(template),
            "prediction": prediction(sample),
            "target": str(sample["target"]),
            **generated(sample["arguments"][0], answers),
        }
        for metric in [metric for metric in metrics if metric in names]:
            try:
                rows.append({**item, "metric": metric, "value": float(value := sample[names[metric]])})
            except TypeError:
                said = f"metrics: {metric} is no number of each item, but {value!r}: name another one"
                raise InputError(said) from None
    if unknown := set(metrics) - available:
        raise InputError(f"metrics: {sorted(unknown)} not among this task's: {sorted(available)}")
    return frame(rows).sort_values(["metric", "item"], ignore_index=True)


def generated(arguments: Sequence[Any], answers: Mapping[str, dict]) -> dict[str, Any]:
    """Tokens generated, finish reason (`stop`, `length` or `loop`), share of repeated 4-grams of words and signs, the
    prompt as it was asked, and the text generated, of a request.

    Nothing for scored options; the first two are None also where the backend does not tell them."""
    record = answers.get(key_of("generate_until", arguments))
    if record is None:
        return {}
    return {
        "generated_tokens": record.get("tokens"),
        "finish_reason": record.get("finish"),
        "repetition": repetition(re.findall(r"\w+|[^\w\s]", record["response"])),
        "prompt": arguments[0],
        "response": record["response"],
    }


def prediction(sample: dict[str, Any]) -> str:
    """The extracted answer of a generation, or the number of the likeliest option."""
    answers = sample["filtered_resps"]
    if isinstance(answers[0], str):
        return answers[0]
    scores = [answer[0] if isinstance(answer, (list, tuple)) else answer for answer in answers]
    return str(max(range(len(scores)), key=scores.__getitem__))
