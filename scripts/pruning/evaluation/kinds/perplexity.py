"""Perplexity of one text in windows of tokens (the GPTQ/Wanda convention), and KL divergence to the dense model there:
a sample is a window. Or bits per byte, for models of different tokenizers: a sample is a piece of the text.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from pruning.core import artifacts, out_of_memory
from pruning.core.errors import InputError
from pruning.core.limits import LEAST_WINDOWS
from pruning.evaluation import samples
from pruning.evaluation.dense import Dense, states
from pruning.evaluation.kinds import Cache, Outcome
from pruning.models import head, loading, rehearsal


def check_memory(model: Path, task: dict[str, Any]) -> None:
    """Raises InputError if a batch of windows would not fit, with the dense model's head where that is needed."""
    rehearsal.must_fit(model, task["dtype"], STAGE, task)


def ask(network, tokenizer, task: dict[str, Any], source: Path, cache: Cache, dense: Path | None = None) -> Outcome:
    """`source`: the parquet of the text's split. Raises InputError if a window is longer than the model's context."""
    seqlen, by_byte = task["seqlen"], task.get("per") == "byte"
    if by_byte:
        cut = pieces(_text(task, source), seqlen, task["tokens"])
        ids, data = [_begun(piece, tokenizer) for piece in cut], [piece.encode() for piece in cut]
        weights = list(map(len, data))
    else:
        ids = read_windows(tokenizer, task, source)
        data, weights = [window.numpy().tobytes() for window in ids], [seqlen - 1] * len(ids)
    longest, context = max(map(len, ids)), network.config.max_position_embeddings
    if longest > context:
        what = f"{seqlen} bytes, {longest} tokens," if by_byte else f"{seqlen}"
        raise InputError(f"seqlen: {what} is longer than the model's context of {context} tokens")
    with out_of_memory.advise(f"`batch_size: {task['batch_size']}`: lower it, or `seqlen`"):
        kept = dense and Dense(dense)
        found = scored(network, ids, task["batch_size"], kept, bool(kept) and kept.is_model(cache.model))
        nll, kl = zip(*tqdm(found, "windows", total=len(ids), mininterval=5), strict=True)
    whole, size = sum(weights), {"windows": len(ids), "seqlen": seqlen}
    if by_byte:
        values = {"bits_per_byte": [each / math.log(2) for each in nll]}
        result = {"bits_per_byte": sum(values["bits_per_byte"]) / whole, "bytes": whole, **size}
        words = f"{result['bits_per_byte']:.4f} bits per byte over {whole} bytes, pieces of {seqlen}"
    else:
        values = {"perplexity": nll}
        result = {"perplexity": math.exp(sum(nll) / whole), "tokens": whole, **size}
        words = f"perplexity {result['perplexity']:.3f} over {whole} tokens, seqlen {seqlen}"
    if task.get("divergence"):
        values["kl"], result["kl"] = kl, sum(kl) / whole
        words += f"; KL divergence to the dense model {result['kl']:.4f} nats per token"
    if len(ids) < LEAST_WINDOWS:
        words = (
            f"warning: fewer than {LEAST_WINDOWS} windows: {len(ids)} of seqlen {seqlen}; tests on so few tell little. "
            f"Lower `seqlen`, or give the task more text\n{words}"
        )
    hashes = [hashlib.sha256(each).hexdigest()[:16] for each in data]
    rows = [
        {"item": item, "item_hash": hashes[item], "metric": metric, "value": value, "weight": weights[item]}
        | {"prediction": "", "target": ""}
        for metric, found in values.items()
        for item, value in enumerate(found)
    ]
    return Outcome(samples.frame(rows), result, words)


def _text(task: Mapping[str, Any], source: Path) -> str:
    records = artifacts.read_table(source, "dataset").to_pylist()
    return task["joiner"].join(task["text"].format_map(record) for record in records)


def read_windows(tokenizer, task: Mapping[str, Any], source: Path) -> Tensor:
    """The windows of a task's text. Raises InputError as `windows` does."""
    return windows(tokenizer(_text(task, source), verbose=False)["input_ids"], task["seqlen"], task["tokens"])


def dense_states(model: Path, task: Mapping[str, Any], source: Path) -> Iterator[dict[str, Tensor]]:
    """What is kept of the dense model in this directory on a task's text (evaluation/dense.py).

    Raises InputError if it does not fit, and as `windows` does."""
    check_memory(model, dict(task))
    network, tokenizer = loading.load(model, task["dtype"])
    return states(network, read_windows(tokenizer, task, source), task["batch_size"])


def _begun(text: str, tokenizer) -> list[int]:
    """A text's tokens after the one that texts begin with, so that the first one is predicted too (as in lm-eval)."""
    first = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    return [first, *tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]]


def windows(ids: Sequence[int], seqlen: int, limit: int | None) -> Tensor:
    """int64 [W, seqlen]: the text cut into whole windows, the rest dropped; at most `limit` tokens.

    Raises InputError if the text is shorter than one window."""
    usable = min(len(ids), limit or len(ids)) // seqlen
    if not usable:
        raise InputError(
            f"perplexity: {min(len(ids), limit or len(ids))} tokens are less than one window of seqlen {seqlen}"
        )
    return torch.tensor(ids[: usable * seqlen]).view(usable, seqlen)


def pieces(text: str, size: int, limit: int | None) -> list[str]:
    """The text cut into pieces of `size` bytes of UTF-8, or up to three less where a character would be cut, the rest
    dropped; of the first `limit` bytes. size: four or more.

    Raises InputError if the text is shorter than one piece."""
    data, found, start = text.encode(), [], 0
    usable = min(len(data), limit or len(data))
    while start + size <= usable:
        end = start + size
        while data[end : end + 1] and data[end] & 0xC0 == 0x80:  # within a character
            end -= 1
        found.append(data[start:end].decode())
        start = end
    if not found:
        raise InputError(f"perplexity: {usable} bytes are less than one piece of seqlen {size}")
    return found


def scored(
    model: nn.Module,
    windows: Sequence[Sequence[int]] | Tensor,
    batch_size: int,
    dense: Dense | None = None,
    same: bool = False,
) -> Iterator[tuple[float, float]]:
    """Of each window, or text: its negative log-likelihood in nats, summed over all tokens but the first, which nothing
    predicts; and the KL divergence of the model's next tokens from the dense model's, summed over the same, over the
    whole vocabulary and in float32. It is 0 without a dense model, and where the model is `same`, which is not run.

    Raises InputError as Dense.teacher does."""
    teacher = dense.teacher(model) if dense and not same else None
    for number, start in enumerate(range(0, len(windows), batch_size)):
        own = [torch.as_tensor(window) for window in windows[start : start + batch_size]]
        ids, labels = pad_sequence(own, True), pad_sequence(own, True, -100)
        found = _summed(model, ids, labels, teacher, dense and dense.hidden(number))
        yield from zip(*(each.tolist() for each in found), strict=True)


@torch.inference_mode()
def _summed(
    model: nn.Module, ids: Tensor, labels: Tensor, teacher: head.Teacher | None = None, wanted: Tensor | None = None
) -> list[Tensor]:
    """Of each window of a batch [B, T]: its negative log-likelihood, and the divergence from a teacher. labels: -100
    where there is no token, after the end of a window. wanted [B, T, d]: what the teacher's head gets; or, where there
    is no teacher, the model's own."""
    device = model.get_input_embeddings().weight.device
    wanted = None if wanted is None else wanted.to(device)
    hidden = head.hidden_states(model, ids.to(device)) if teacher or wanted is None else wanted
    labels = labels.to(device)
    if teacher:
        found = head.losses_and_divergences(model, hidden, labels, teacher, wanted)
    else:
        losses = head.token_losses(model, hidden, labels)
        found = losses, torch.zeros_like(losses)
    return [each.sum(1, dtype=torch.float64) for each in found]


def taken(network: nn.Module, settings: Mapping[str, Any]) -> rehearsal.Taken:
    """What a batch of windows takes, with the dense model's head and what that gets. settings: a task's."""
    ids = torch.zeros(settings["batch_size"], settings["seqlen"], dtype=torch.long)
    if not settings.get("divergence"):
        return rehearsal.rehearsed(network, lambda: _summed(network, ids, ids))
    weight, teacher = network.get_output_embeddings().weight, partial(head.logits_of, network)
    own = partial(weight.new_zeros, *ids.shape, weight.shape[1])  # what the dense model's head gets
    return rehearsal.rehearsed(network, lambda: _summed(network, ids, ids, teacher, own())).plus(weight.nbytes)


STAGE = rehearsal.Stage("perplexity", "tasks", taken, {"batch_size": 1})
