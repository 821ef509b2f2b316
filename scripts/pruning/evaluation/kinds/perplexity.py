"""Perplexity of one text in windows of tokens (the GPTQ/Wanda convention), and KL divergence to the dense model there:
a sample is a window. Or bits per byte, for models of different tokenizers: a sample is a piece of the text. Or either
of records, each after its prompt, as a model is asked: a sample is a record.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from pruning.core import out_of_memory
from pruning.core.errors import InputError
from pruning.core.limits import LEAST_WINDOWS
from pruning.data import text
from pruning.evaluation import samples
from pruning.evaluation.dense import Dense, batches, states
from pruning.evaluation.kinds import Cache, Outcome
from pruning.models import head, loading, rehearsal


def check_memory(model: Path, task: dict[str, Any]) -> None:
    """Raises InputError if a batch of windows would not fit, with the dense model's head where that is needed."""
    rehearsal.must_fit(model, task["dtype"], STAGE, task)


def ask(network, tokenizer, task: dict[str, Any], source: Path, cache: Cache, dense: Path | None = None) -> Outcome:
    """`source`: the parquet of the text's split. Raises InputError if a window is longer than the model's context."""
    seqlen, by_byte = task["seqlen"], task.get("per") == "byte"
    ids, labels, weights, data = zip(*samples_of(tokenizer, task, source), strict=True)
    longest, context = max(map(len, ids)), network.config.max_position_embeddings
    if longest > context:
        what = f"{seqlen} bytes, {longest} tokens," if by_byte else f"{seqlen}"
        raise InputError(f"seqlen: {what} is longer than the model's context of {context} tokens")
    with out_of_memory.advise(f"`batch_size: {task['batch_size']}`: lower it, or `seqlen`"):
        kept = dense and Dense(dense)
        found = scored(network, ids, task["batch_size"], kept, bool(kept) and kept.is_model(cache.model), labels)
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
        few, remedy = f"windows: {len(ids)} of seqlen {seqlen}", "Lower `seqlen`, or give the task more text"
        if task.get("prompt") is not None:
            few, remedy = f"records: {len(ids)}", "Give the task more of them"
        words = f"warning: fewer than {LEAST_WINDOWS} {few}; tests on so few tell little. {remedy}\n{words}"
    hashes = [hashlib.sha256(each).hexdigest()[:16] for each in data]
    rows = [
        {"item": item, "item_hash": hashes[item], "metric": metric, "value": value, "weight": weights[item]}
        | {"prediction": "", "target": ""}
        for metric, found in values.items()
        for item, value in enumerate(found)
    ]
    return Outcome(samples.frame(rows), result, words)


def _text(task: Mapping[str, Any], source: Path) -> str:
    return task["joiner"].join(said for _, said in text.documents(source, "", task["text"]))


class Sample(NamedTuple):
    """A window, a piece, or a record."""

    ids: Tensor  # int64 [T]
    labels: Tensor  # the same, but -100 where a token is not scored
    weight: int  # of what its loss is: tokens, or bytes
    data: bytes  # what it is


def samples_of(tokenizer, task: Mapping[str, Any], source: Path) -> list[Sample]:
    """The samples of a task. Raises InputError as `windows`, `pieces` and `records` do."""
    if task.get("prompt") is not None:
        pairs = text.documents(source, task["prompt"], task["text"])
        return records(pairs, tokenizer, task["seqlen"], task["tokens"], by_byte=task.get("per") == "byte")
    if task.get("per") == "byte":
        cut = pieces(_text(task, source), task["seqlen"], task["tokens"])
        begun = [torch.tensor(_begun(piece, tokenizer)) for piece in cut]
        found = zip(begun, (piece.encode() for piece in cut), strict=True)
        return [Sample(ids, ids, len(data), data) for ids, data in found]
    whole = windows(tokenizer(_text(task, source), verbose=False)["input_ids"], task["seqlen"], task["tokens"])
    return [Sample(ids, ids, len(ids) - 1, ids.numpy().tobytes()) for ids in whole]


def dense_states(model: Path, task: Mapping[str, Any], source: Path) -> Iterator[dict[str, Tensor]]:
    """What is kept of the dense model in this directory on a task's text (evaluation/dense.py).

    Raises InputError if it does not fit, and as `windows` does."""
    check_memory(model, dict(task))
    network, tokenizer = loading.load(model, task["dtype"])
    return states(network, [sample.ids for sample in samples_of(tokenizer, task, source)], task["batch_size"])


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


def records(
    pairs: Iterable[tuple[str, str]], tokenizer, size: int, limit: int | None, by_byte: bool = False
) -> list[Sample]:
    """A sample of each (prompt, text), of which the text is scored, and its end after a prompt in the model's chat
    format (of others nothing tells what ends them); the first ones that have at most `limit` tokens together, but for
    those of more than `size` and without text. by_byte: both count bytes, so does a sample's weight.

    Raises InputError if there are none."""
    found, left = [], math.inf if limit is None else limit
    for prompt, said in pairs:
        asked, answered = text.tokens(prompt, said, tokenizer)
        answered = answered if text.answer_end(prompt, tokenizer) is not None else answered[:-1]
        asked = asked or _begun("", tokenizer)
        data, ids = (prompt + said).encode(), torch.tensor(asked + answered)
        length = len(data) if by_byte else len(ids)
        if length > size or not said:
            continue
        if length > left:
            break
        labels = ids.masked_fill(torch.arange(len(ids)) < len(asked), -100)
        found.append(Sample(ids, labels, len(said.encode()) if by_byte else len(answered), data))
        left -= length
    if not found:
        unit = "bytes" if by_byte else "tokens"
        raise InputError(f"perplexity: no record has at most {min(size, limit or size)} {unit}: raise `seqlen`")
    return found


def scored(
    model: nn.Module,
    windows: Sequence[Tensor],
    batch_size: int,
    dense: Dense | None = None,
    same: bool = False,
    labels: Sequence[Tensor] | None = None,
) -> Iterator[tuple[float, float]]:
    """Of each window, or text: its negative log-likelihood in nats, summed over all tokens but the first, which nothing
    predicts, and but those whose label is -100; and the KL divergence of the model's next tokens from the dense
    model's, summed over the same, over the whole vocabulary and in float32. It is 0 without a dense model, and where
    the model is `same`, which is not run. labels: the tokens; None: all are scored.

    Raises InputError as Dense.teacher does."""
    teacher = dense.teacher(model) if dense and not same else None
    both = zip(batches(windows, batch_size), batches(labels or windows, batch_size, -100), strict=True)
    for number, (ids, labels) in enumerate(both):
        found = _summed(model, ids, labels, teacher, dense and dense.hidden(number))
        yield from zip(*(each.tolist() for each in found), strict=True)


@torch.inference_mode()
def _summed(
    model: nn.Module, ids: Tensor, labels: Tensor, teacher: head.Teacher | None = None, wanted: Tensor | None = None
) -> list[Tensor]:
    """Of each window of a batch [B, T]: its negative log-likelihood, and the divergence from a teacher. labels: -100
    where a token is not scored, or is none, after the end of a window. wanted [B, T, d]: what the teacher's head gets;
    or, where there is no teacher, the model's own."""
    device = model.get_input_embeddings().weight.device
    wanted = None if wanted is None else wanted.to(device)
    hidden = head.hidden_states(model, ids.to(device)) if teacher or wanted is None else wanted
    labels = labels.to(device)
    if teacher:
        losses, divergences = head.losses_and_divergences(model, hidden, labels, teacher, wanted)
        unscored = labels[:, 1:].to(divergences.device) == -100
        found = losses, divergences.masked_fill(unscored, 0)
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
