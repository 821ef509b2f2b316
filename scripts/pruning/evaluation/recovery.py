"""LoRA recovery of a pruned model (Hu et al. 2022, arXiv 2106.09685): a short fine-tuning of low-rank adapters."""

import hashlib
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import safetensors.torch
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from pruning.core import artifacts
from pruning.core.errors import InputError
from pruning.data import text
from pruning.data.text import Sequences
from pruning.models import head, loading, rehearsal, tokenizers, vocabulary
from pruning.models.checkpointing import checkpoint_gradients

Log = list[dict[str, float]]
"""`step` and `loss`, from the first step on."""
DIGEST = 32
"""Bytes at the beginning of a checkpoint."""


def with_adapters(model: nn.Module, settings: Mapping[str, Any]) -> PeftModel:
    """The model with trainable LoRA adapters on `targets`, everything else frozen; on none that is empty, where a layer
    was dropped.

    Raises InputError if the model has no such modules."""
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    empty = [name for name, module in linear.items() if not module.weight.numel()]
    names = {name.rsplit(".", 1)[-1] for name in linear.keys() - empty}
    if missing := sorted(set(settings["targets"]) - names):
        raise InputError(f"tunings: targets: no linear modules {missing} in the model; it has {sorted(names)}")
    torch.manual_seed(settings["seed"])
    where = {"target_modules": sorted(settings["targets"]), **({"exclude_modules": empty} if empty else {})}
    return get_peft_model(model, LoraConfig(r=settings["rank"], lora_alpha=settings["alpha"], **where))


def opened(
    model: Path, data: Path, settings: Mapping[str, Any], teacher: Path | None
) -> tuple[PeftModel, nn.Module | None, Sequences, int]:
    """The model with adapters, the teacher's, what is learnt from, and the token of padding.

    model, teacher: directories. data: parquet of a dataset's split. Raises InputError as with_adapters and `answered`
    do, and if a step does not fit into memory."""
    tokenizer = tokenizers.load(model)
    texts, length = text.documents(data, settings["prompt"], settings["completion"]), settings["sequence_length"]
    cut = {"samples": len(texts), "sequence_length": length, "packing": "document", "seed": settings["seed"]}
    sequences = answered(text.token_samples(texts, tokenizer, **cut), length)
    own = {**settings, "sequence_length": max(len(ids) for ids, _ in sequences)}
    rehearsal.must_fit(model, settings["dtype"], STAGE, own, teacher)
    network, _ = loading.load(model, settings["dtype"])
    dense = loading.load(teacher, settings["dtype"])[0] if teacher else None
    if dense and dense.config.vocab_size != network.config.vocab_size:  # it chooses among the tokens that are left
        vocabulary.shrink(dense, vocabulary.kept_of(teacher, model))
    tuned = with_adapters(network, settings)
    if settings["gradient_checkpointing"]:
        checkpoint_gradients(network)
    return tuned, dense, sequences, tokenizer.pad_token_id


def answered(sequences: Sequences, length: int) -> Sequences:
    """Those with a token to learn within `length` tokens; the rest, all prompt, would make the loss of a batch NaN.

    Raises InputError if there are none."""
    kept = [(ids, answer) for ids, answer in sequences if any(answer[1:])]
    if not kept:
        raise InputError(f"tunings: sequence_length: {length}: no text's completion begins within it: raise it")
    if left_out := len(sequences) - len(kept):
        print(f"{left_out} of {len(sequences)} texts left out: their completion begins after {length} tokens")
    return kept


def batch(sequences: Sequences, step: int, size: int, seed: int, pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and labels [B, T] of a step, a function of (seed, step); -100 labels prompts and padding."""
    chosen = Random(f"{seed} {step}").choices(sequences, k=size)
    ids = [torch.tensor(tokens) for tokens, _ in chosen]
    labels = [own.masked_fill(~torch.tensor(answer), -100) for own, (_, answer) in zip(ids, chosen, strict=True)]
    return pad_sequence(ids, True, pad), pad_sequence(labels, True, -100)


def backward(
    tuned: PeftModel, ids: torch.Tensor, labels: torch.Tensor, rows: int | None = None, teacher: nn.Module | None = None
) -> float:
    """Mean loss in nats over the labelled tokens of ids and labels [B, T]: next-token cross-entropy, or, with a
    teacher, the KL divergence from its next tokens (Hinton et al. 2015, arXiv 1503.02531). Its gradients are added to
    those of the adapters, `rows` documents at a time (None: all at once)."""
    model, total, count = tuned.get_base_model(), 0.0, int((labels[:, 1:] != -100).sum())
    rows = rows or len(ids)
    for some, their_labels in zip(ids.split(rows), labels.split(rows), strict=True):
        hidden = head.hidden_states(model, some)
        if teacher is None:
            losses = head.token_losses(model, hidden, their_labels)  # 0 where there is no label
        else:
            with torch.no_grad():
                wanted = head.hidden_states(teacher, some)
            losses = head.token_divergences(model, hidden, partial(head.logits_of, teacher), wanted)
            losses = losses * (their_labels[:, 1:] != -100).to(losses.device)
        share = losses.sum() / count
        share.backward()
        total += share.item()
    return total


def save(directory: Path, tuned: PeftModel) -> None:
    """The adapter as PEFT saves it, but that equal adapters make equal bytes: PEFT writes the targets, a set, in the
    order of a process's hashes."""
    tuned.save_pretrained(directory)
    path = directory / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for key in ("target_modules", "exclude_modules"):
        if config.get(key):
            config[key].sort()
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def save_state(path: Path, identity: str, log: Log, tuned: PeftModel, optimizer: torch.optim.Optimizer) -> None:
    """Write a checkpoint as one file: a digest of what follows and of whose it is; the log as JSON; adapters and
    AdamW's moments by name, as safetensors."""
    tensors = {}
    for name, parameter in trained(tuned).items():
        own = {"parameter": parameter.detach(), **optimizer.state[parameter]}
        tensors |= {f"{key}|{name}": value.contiguous() for key, value in own.items()}
    content = json.dumps(log).encode() + b"\n" + safetensors.torch.save(tensors)
    with artifacts.atomic(path) as temporary:
        temporary.write_bytes(_digest(identity, content) + content)


def trained(tuned: PeftModel) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in tuned.named_parameters() if parameter.requires_grad}


def load_state(path: Path, identity: str, tuned: PeftModel, optimizer: torch.optim.Optimizer) -> Log:
    """The reverse: training goes on as if it had not stopped. Returns the log; none where there is no checkpoint, or
    one that is another training's or not as it was written."""
    raw = path.read_bytes() if path.exists() else b""
    if raw[:DIGEST] != _digest(identity, raw[DIGEST:]):
        if raw:
            print(f"{path}: not a whole checkpoint of this training, which starts anew")
        return []
    text, _, saved = raw[DIGEST:].partition(b"\n")
    log, tensors = json.loads(text), safetensors.torch.load(saved)
    for name, parameter in trained(tuned).items():
        with torch.no_grad():
            parameter.copy_(tensors[f"parameter|{name}"])
        moments = {key: tensors[f"{key}|{name}"].to(parameter.device) for key in ("exp_avg", "exp_avg_sq")}
        optimizer.state[parameter] = {"step": tensors[f"step|{name}"], **moments}
    print(f"resumed after step {len(log)}")
    return log


def _digest(identity: str, content: bytes) -> bytes:
    return hashlib.sha256(identity.encode() + content).digest()


def taken(network: nn.Module, settings: Mapping[str, Any]) -> rehearsal.Taken:
    """What a step takes, optimiser included."""
    device = network.get_input_embeddings().weight.device

    def step() -> None:
        tuned = with_adapters(network, settings)
        if settings["gradient_checkpointing"]:
            checkpoint_gradients(network)
        optimizer = torch.optim.AdamW([each for each in tuned.parameters() if each.requires_grad], weight_decay=0.0)
        ids = torch.ones(settings["batch_size"], settings["sequence_length"], dtype=torch.long, device=device)
        backward(tuned, ids, ids, settings["micro_batch"])
        optimizer.step()

    return rehearsal.rehearsed(network, step)


STAGE = rehearsal.Stage("recovery", "tunings", taken, {"gradient_checkpointing": True, "micro_batch": 1})
