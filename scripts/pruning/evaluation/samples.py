"""What came of each item: lm-eval's samples, and what is on record of their answers, as one frame."""

import hashlib
import re
from collections.abc import Sequence
from typing import Any

import pandas as pd

from pruning.core.errors import InputError
from pruning.evaluation.answers import AnswerFile
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


def outcomes(result: dict[str, Any], answers: AnswerFile, metrics: Sequence[str]) -> pd.DataFrame:
    """One row an item and metric, in the schema shared with perplexity (docs/artefacts.md).

    result: lm-eval's, of one task, with samples. answers: those that the result was made of.
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
        how = generated(sample, answers)
        template = sample["doc"].get("template")
        for name in metrics:
            if name in names:
                rows.append(
                    {
                        "item": sample["doc_id"],
                        "item_hash": hashlib.sha256(hashes.encode()).hexdigest()[:16],
                        "metric": name,
                        "value": float(sample[names[name]]),
                        "weight": 1,
                        "cluster": None if template is None else str(template),
                        "prediction": prediction(sample),
                        "target": str(sample["target"]),
                        **how,
                    }
                )
    if unknown := set(metrics) - available:
        raise InputError(f"metrics: {sorted(unknown)} not among this task's: {sorted(available)}")
    return pd.DataFrame(rows).sort_values(["metric", "item"], ignore_index=True).astype(TYPES)


def generated(sample: dict[str, Any], answers: AnswerFile) -> dict[str, Any]:
    """Tokens generated, finish reason (`stop`, `length` or `loop`), share of repeated 4-grams of words and signs, the
    prompt as it was asked, and the text generated.

    All None for scored options; the first two also where the backend does not tell them."""
    record: dict[str, Any] = {}
    first = (None,)
    arguments = list(sample["arguments"].values()) if isinstance(sample["arguments"], dict) else sample["arguments"]
    if arguments:
        first = tuple(arguments[0].values()) if isinstance(arguments[0], dict) else tuple(arguments[0])
        record = answers.records.get(answers.key("generate_until", first), {})
    repeated = repetition(re.findall(r"\w+|[^\w\s]", record["response"])) if record else None
    return {
        "generated_tokens": record.get("tokens"),
        "finish_reason": record.get("finish"),
        "repetition": repeated,
        "prompt": first[0] if record else None,
        "response": record.get("response"),
    }


def prediction(sample: dict[str, Any]) -> str:
    """The extracted answer of a generation, or the number of the likeliest option."""
    answers = sample["filtered_resps"]
    if isinstance(answers[0], str):
        return answers[0]
    scores = [answer[0] if isinstance(answer, (list, tuple)) else answer for answer in answers]
    return str(max(range(len(scores)), key=scores.__getitem__))
