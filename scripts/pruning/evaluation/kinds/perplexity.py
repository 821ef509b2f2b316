"""Windowed perplexity of one text, and KL divergence to the dense model there: a sample is a window."""

import hashlib
import math
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pruning.core import artifacts, out_of_memory
from pruning.core.errors import InputError
from pruning.core.limits import LEAST_WINDOWS
from pruning.evaluation import samples
from pruning.evaluation.kinds import Cache, Outcome
from pruning.evaluation.perplexity import STAGE, divergences, negative_log_likelihoods, windows
from pruning.models import loading, packing, rehearsal


def check_memory(model: Path, task: dict[str, Any], dense: Path | None = None) -> None:
    """Raises InputError if a batch of windows would not fit, with the dense model beside it where that is needed."""
    rehearsal.must_fit(model, task["dtype"], STAGE, task, dense if task.get("divergence") else None)


def ask(network, tokenizer, task: dict[str, Any], source: Path, cache: Cache, dense: Path | None = None) -> Outcome:
    """`source`: the parquet of the text's split. Raises InputError if a window is longer than the model's context."""
    seqlen, context = task["seqlen"], network.config.max_position_embeddings
    if seqlen > context:
        raise InputError(f"seqlen: {seqlen} is longer than the model's context of {context} tokens")
    records = artifacts.read_table(source, "dataset").to_pylist()
    text = task["joiner"].join(task["text"].format_map(record) for record in records)
    cut = windows(tokenizer(text, verbose=False)["input_ids"], seqlen, task["tokens"])
    with out_of_memory.advise(f"`batch_size: {task['batch_size']}`: lower it, or `seqlen`"):
        if task.get("divergence") and dense:
            whole = packing.pack(loading.load(dense, task["dtype"])[0])
            scored = divergences(network, whole, cut, task["batch_size"])
        else:
            scored = ((nll, 0.0) for nll in negative_log_likelihoods(network, cut, task["batch_size"]))
        nll, kl = zip(*tqdm(scored, "windows", total=len(cut), mininterval=5), strict=True)
    values = {"perplexity": nll, **({"kl": kl} if task.get("divergence") else {})}
    hashes = [hashlib.sha256(window.numpy().tobytes()).hexdigest()[:16] for window in cut]
    frame = samples.frame(
        [
            {"item": item, "item_hash": hashes[item], "metric": metric, "value": value, "weight": seqlen - 1}
            | {"prediction": "", "target": ""}
            for metric, found in values.items()
            for item, value in enumerate(found)
        ]
    )
    tokens = len(cut) * (seqlen - 1)
    result = {"perplexity": math.exp(sum(nll) / tokens), "tokens": tokens, "windows": len(cut), "seqlen": seqlen}
    words = f"perplexity {result['perplexity']:.3f} over {tokens} tokens, seqlen {seqlen}"
    if "kl" in values:
        result["kl"] = sum(kl) / tokens
        words += f"; KL divergence to the dense model {result['kl']:.4f} nats per token"
    if len(cut) < LEAST_WINDOWS:
        words = (
            f"warning: fewer than {LEAST_WINDOWS} windows: {len(cut)} of seqlen {seqlen}; tests on so few tell little. "
            f"Lower `seqlen`, or give the task more text\n{words}"
        )
    return Outcome(frame, result, words)
