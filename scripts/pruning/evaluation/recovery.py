"""LoRA recovery of a pruned model (Hu et al. 2022, arXiv 2106.09685): a short fine-tuning of low-rank adapters."""

import gc
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import safetensors.torch
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from pruning.core import artifacts
from pruning.core.errors import InputError
from pruning.data import text
from pruning.data.text import Sequences
from pruning.evaluation import dense
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


class Taught(NamedTuple):
    """What a teacher makes of the texts that are learnt from."""

    teacher: head.Teacher
    hidden: Mapping[int, Tensor]
    """What its head gets of each text, [T, d], on the CPU."""

    def of(self, chosen: Sequence[int]) -> tuple[head.Teacher, Tensor]:
        """Return the teacher and what its head gets of some texts, [B, T, d]."""
        return self.teacher, pad_sequence([self.hidden[number] for number in chosen], True)


def opened(
    model: Path, data: Path, settings: Mapping[str, Any], teacher: Path | None
) -> tuple[PeftModel, Taught | None, Sequences, int]:
    """The model with adapters, what a teacher makes of the texts, those, and the token of padding.

    model, teacher: directories. data: parquet of a dataset's split. Raises InputError as with_adapters and `answered`
    do, and if a step does not fit into memory."""
    tokenizer = tokenizers.load(model)
    texts, length = text.documents(data, settings["prompt"], settings["completion"]), settings["sequence_length"]
    cut = {"samples": len(texts), "sequence_length": length, "packing": "document", "seed": settings["seed"]}
    sequences = answered(text.token_samples(texts, tokenizer, **cut), length)
    steps = [drawn(len(sequences), step, settings["batch_size"], settings["seed"]) for step in range(settings["steps"])]
    learnt = set().union(*steps)
    own = {**settings, "sequence_length": max(len(ids) for ids, _ in sequences)}
    if teacher:
        own |= {"objective": "distillation", "tokens": sum(len(sequences[number][0]) for number in learnt)}
    rehearsal.must_fit(model, settings["dtype"], STAGE, own)
    known = taught(teacher, model, sequences, learnt, settings) if teacher else None
    network, _ = loading.load(model, settings["dtype"])
    tuned = with_adapters(network, settings)
    if settings["gradient_checkpointing"]:
        checkpoint_gradients(network)
    lesson = Taught(dense.teacher(network, known[0]), known[1]) if known else None
    return tuned, lesson, sequences, tokenizer.pad_token_id


@torch.no_grad()
def taught(
    teacher: Path, model: Path, sequences: Sequences, numbers: Collection[int], settings: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[int, Tensor]]:
    """The parameters of the teacher's head, and, by their numbers, what that gets of texts, [T, d]; all on the CPU. The
    teacher is let go.

    teacher, model: directories. Where the model's vocabulary was pruned, the teacher chooses among what is left."""
    network, _ = loading.load(teacher, settings["dtype"])
    if network.config.vocab_size != loading.stock_config(model).vocab_size:
        vocabulary.shrink(network, vocabulary.kept_of(teacher, model))
    device, found = network.get_input_embeddings().weight.device, {}
    alike = sorted(numbers, key=lambda number: len(sequences[number][0]))
    for start in range(0, len(alike), settings["batch_size"]):
        some = alike[start : start + settings["batch_size"]]
        ids = pad_sequence([torch.tensor(sequences[number][0]) for number in some], True)
        hidden = head.hidden_states(network, ids.to(device)).cpu()
        found |= {number: own[: len(sequences[number][0])].clone() for number, own in zip(some, hidden, strict=True)}
    parameters = dense.head_of(network)
    del network
    gc.collect()
    torch.cuda.empty_cache()  # which the next model is placed by
    return parameters, found


def answered(sequences: Sequences, length: int) -> Sequences:
    """Those with a token to learn within `length` tokens; the rest, all prompt, would make the loss of a batch NaN.

    Raises InputError if there are none."""
    kept = [(ids, answer) for ids, answer in sequences if any(answer[1:])]
    if not kept:
        raise InputError(f"tunings: sequence_length: {length}: no text's completion begins within it: raise it")
    if left_out := len(sequences) - len(kept):
        print(f"{left_out} of {len(sequences)} texts left out: their completion begins after {length} tokens")
    return kept


def drawn(count: int, step: int, size: int, seed: int) -> list[int]:
    """Numbers of the texts of a step, of so many: a function of (seed, step)."""
    return Random(f"{seed} {step}").choices(range(count), k=size)


def batch(texts: Sequences, pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and labels [B, T] of texts; -100 labels prompts and padding."""
    ids = [torch.tensor(tokens) for tokens, _ in texts]
    labels = [own.masked_fill(~torch.tensor(answer), -100) for own, (_, answer) in zip(ids, texts, strict=True)]
    return pad_sequence(ids, True, pad), pad_sequence(labels, True, -100)


def backward(
    tuned: PeftModel,
    ids: torch.Tensor,
    labels: torch.Tensor,
    rows: int | None = None,
    told: tuple[head.Teacher, Tensor] | None = None,
) -> float:
    """Mean loss in nats over the labelled tokens of ids and labels [B, T]: next-token cross-entropy, or, with a
    teacher, the KL divergence from its next tokens (Hinton et al. 2015, arXiv 1503.02531). Its gradients are added to
    those of the adapters, `rows` documents at a time (None: all at once).

    told: the teacher, and what its head gets, [B, T, d]."""
    model, total, count = tuned.get_base_model(), 0.0, int((labels[:, 1:] != -100).sum())
    rows = rows or len(ids)
    for start in range(0, len(ids), rows):
        learnt = labels[start : start + rows] != -100
        needed = learnt.any(0).int().flip(0).cummax(0).values.flip(0).bool()  # to the last label: padding is left out
        some, their_labels = (each[start : start + rows, needed] for each in (ids, labels))
        hidden = head.hidden_states(model, some)
        if told is None:
            losses = head.token_losses(model, hidden, their_labels)  # 0 where there is no label
        else:
            teacher, wanted = told
            learnt = learnt[:, needed][:, 1:].to(hidden.device)
            goals = wanted[start : start + rows, : some.shape[1]].to(hidden.device)
            losses = head.divergences(model, hidden[:, :-1][learnt], teacher, goals[:, :-1][learnt])
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


def save_state(path: Path, log: Log, tuned: PeftModel, optimizer: torch.optim.Optimizer) -> None:
    """Write a checkpoint as one file: a digest of what follows and of its name; the log as JSON; adapters and
    AdamW's moments by name, as safetensors."""
    tensors = {}
    for name, parameter in trained(tuned).items():
        own = {"parameter": parameter.detach(), **optimizer.state[parameter]}
        tensors |= {f"{key}|{name}": value.contiguous() for key, value in own.items()}
    content = json.dumps(log).encode() + b"\n" + safetensors.torch.save(tensors)
    with artifacts.atomic(path) as temporary:
        temporary.write_bytes(_digest(path.name, content) + content)


def trained(tuned: PeftModel) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in tuned.named_parameters() if parameter.requires_grad}


def load_state(path: Path, tuned: PeftModel, optimizer: torch.optim.Optimizer) -> Log:
    """The reverse: training goes on as if it had not stopped. Returns the log; none where there is no checkpoint, or
    one that is another training's or not as it was written."""
    raw = path.read_bytes() if path.exists() else b""
    if raw[:DIGEST] != _digest(path.name, raw[DIGEST:]):
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


def _digest(name: str, content: bytes) -> bytes:
    return hashlib.sha256(name.encode() + content).digest()


def taken(network: nn.Module, settings: Mapping[str, Any]) -> rehearsal.Taken:
    """What a step takes, optimiser included; of a distillation also the teacher's head and, on the CPU, what that gets
    of all `tokens` that are learnt from, where they are known."""
    device, weight = network.get_input_embeddings().weight.device, network.get_output_embeddings().weight
    distils = settings.get("objective") == "distillation"

    def step() -> None:
        tuned = with_adapters(network, settings)
        if settings["gradient_checkpointing"]:
            checkpoint_gradients(network)
        optimizer = torch.optim.AdamW([each for each in tuned.parameters() if each.requires_grad], weight_decay=0.0)
        ids = torch.ones(settings["batch_size"], settings["sequence_length"], dtype=torch.long, device=device)
        told = (partial(head.logits_of, network), weight.new_zeros(*ids.shape, weight.shape[1])) if distils else None
        backward(tuned, ids, ids, settings["micro_batch"], told)
        optimizer.step()

    kept = settings.get("tokens", 0) * weight.shape[1] * weight.element_size()
    return rehearsal.rehearsed(network, step).plus(distils * (weight.nbytes + kept), spared=distils * kept)


STAGE = rehearsal.Stage("recovery", "tunings", taken, {"gradient_checkpointing": True, "micro_batch": 1})
