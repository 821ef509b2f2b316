"""Greedy generation for many prompts at once, without work that changes no answer.

What all prompts begin with (few-shot examples) is computed once; prompts are read beside others of about their length,
so that few are padded far; keys and values lie in buffers instead of being copied for every token; rows that have ended
leave the batch, and so do rows caught in a loop.
The tokens are those of transformers' `generate` with `do_sample=False`, up to rounding: sums over a batch depend on its
shape.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad as pad_end
from transformers import DynamicCache, LogitsProcessorList, PreTrainedModel
from transformers.cache_utils import DynamicLayer, LinearAttentionLayer

SHARED = 16  # a shorter common beginning is not worth a forward pass of its own
ROOM = 64  # tokens that a buffer grows by
# A loop repeats at most 48 tokens, and has repeated the last 64, three periods and twice what is left exactly.
PERIOD, REPEATED, PERIODS, LEFT = 48, 64, 3, 2
LONGER, MORE = 1.25, 16  # prompts of l to LONGER l + MORE tokens are read together
LOOK = 8  # loops are looked for, and ended rows leave, every so many tokens


@dataclass(frozen=True)
class Generated:
    """One prompt's continuation."""

    tokens: list[int]
    finish: str  # `stop` (the end was met), `length` (the limit was), `loop` (it repeats itself, to the limit)


class GrowingLayer(DynamicLayer):
    """Keys and values in buffers with room for more: DynamicLayer copies all of them at every token."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        self.buffers = tuple(s.new_empty((*s.shape[:2], 0, s.shape[3])) for s in (key_states, value_states))
        self.keys, self.values = self.buffers

    def update(self, key_states: Tensor, value_states: Tensor, *_, **__) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        old = self.get_seq_length()
        new = old + key_states.shape[-2]
        if new > self.buffers[0].shape[-2]:
            self.buffers = tuple(pad_end(s[:, :, :old], (0, 0, 0, new + ROOM - old)) for s in self.buffers)
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, old:new] = states
        self._show(new)
        return self.keys, self.values

    def take(self, rows: Tensor, batch: int, width: int, other: "GrowingLayer") -> None:
        """Some rows of the batch, from a cache of their own: its tokens are these rows' last, of so many."""
        if not self.is_initialized:
            self.lazy_initialization(other.keys, other.values)
            self.buffers = tuple(s.new_zeros((batch, s.shape[1], width + ROOM, s.shape[3])) for s in self.buffers)
            self._show(width)
        for buffer, states in zip(self.buffers, (other.keys, other.values), strict=True):
            buffer[rows, :, width - states.shape[-2] : width] = states

    def batch_select_indices(self, indices: Tensor) -> None:
        length = self.get_seq_length()
        self.buffers = tuple(buffer[indices] for buffer in self.buffers)
        self._show(length)

    def _show(self, length: int) -> None:
        self.keys, self.values = (buffer[:, :, :length] for buffer in self.buffers)


class StateLayer(LinearAttentionLayer):
    """States of a convolution or of linear attention; transformers' own layer cannot leave rows out."""

    def batch_select_indices(self, indices: Tensor) -> None:
        for states in (self.conv_states, self.recurrent_states):
            states |= {number: own[indices] for number, own in states.items() if own is not None}


def new_cache(model: PreTrainedModel) -> DynamicCache:
    """transformers' cache for this model, its plain layers growing in place (sliding-window ones stay theirs)."""
    cache = DynamicCache(config=model.config)
    for number, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer:
            cache.layers[number] = GrowingLayer()
        elif type(layer) is LinearAttentionLayer:
            cache.layers[number] = StateLayer(layer.number_of_states)
    return cache


def common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """Tokens that all prompts begin with, one at least being left to each."""
    first, last = min(prompts), max(prompts)
    shared = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return min(shared, min(map(len, prompts)) - 1)


def loops(tokens: Tensor, left: int) -> Tensor:
    """bool [B]: rows of tokens [B, T] that repeat themselves to their limit, which is `left` tokens away, by what is
    seen: for some period p <= PERIOD the last max(REPEATED, PERIODS p, LEFT left) tokens equal those p before them.

    No repetition proves that a model stays in its loop, since every token's position is new. How often one was left in
    time is in docs/explanation/statistics.md."""
    found = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
    for period in range(1, PERIOD + 1):
        span = max(REPEATED, PERIODS * period, LEFT * left)
        if span + period > tokens.shape[1]:
            break
        found |= (tokens[:, -span:] == tokens[:, -span - period : -period]).all(1)
    return found


@torch.inference_mode()
def greedy(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    limit: int,
    ended: Callable[[int, list[int]], bool],
    *,
    pad: int,
    prefix: DynamicCache | None = None,
    processors: LogitsProcessorList | None = None,
) -> list[Generated]:
    """Continuations of at most `limit` tokens, in the order of the prompts (token ids, none empty), in one batch.

    ended(row, tokens): whether the row's continuation has come to its end; asked after every token.
    prefix: keys and values of the first tokens of every prompt (`prefix_cache`); it is not changed.
    processors: transformers' own of these prompts, padded on the left to one length, which change the logits."""
    device = device_of(model)
    rows = torch.arange(len(prompts), device=device)  # of those still in the batch
    tokens: list[list[int]] = [[] for _ in prompts]
    finish = ["length"] * len(prompts)
    alive = torch.ones(len(prompts), dtype=torch.bool, device=device)
    cache, real, logits = read(model, prompts, pad, prefix)
    positions = real.sum(1, keepdim=True)
    # Of all rows, since processors know of none that left.
    written = torch.cat([padded(prompts, pad, device), rows.new_full((len(prompts), limit), pad)], dim=1)
    width = written.shape[1] - limit
    for step in range(1, limit + 1):
        if processors:
            whole = logits.new_zeros((len(prompts), logits.shape[1]), dtype=torch.float32)
            whole[rows] = logits.float()
            logits = processors(written[:, : width + step - 1], whole)[rows]
        ids = logits.argmax(-1, keepdim=True)
        written[rows, width + step - 1] = ids[:, 0]
        for place, (row, token, live) in enumerate(zip(rows.tolist(), ids[:, 0].tolist(), alive.tolist(), strict=True)):
            if live:
                tokens[row].append(token)
                if ended(row, tokens[row]):
                    finish[row], alive[place] = "stop", False
        if step % LOOK == 0 and step < limit:
            looping = loops(written[rows, width : width + step], limit - step)
            for place in (looping & alive).nonzero().flatten().tolist():
                finish[rows[place]], alive[place] = "loop", False
        if step == limit or not alive.any():
            break
        if step % LOOK == 0 and not alive.all():
            left = alive.nonzero().flatten()
            cache.batch_select_indices(left.cpu())  # layers may be on several GPUs
            rows, ids, real, positions, alive = (t[left] for t in (rows, ids, real, positions, alive))
        real = torch.cat([real, real.new_ones(len(real), 1)], dim=1)
        logits = following(model, ids, real, positions, cache)
        positions = positions + 1
    return [Generated(*pair) for pair in zip(tokens, finish, strict=True)]


def device_of(model: PreTrainedModel) -> torch.device:
    """Where inputs belong."""
    return model.get_input_embeddings().weight.device


def padded(rows: Sequence[Sequence[int]], pad: int, device: torch.device) -> Tensor:
    """Token ids [B, T], padded on the left."""
    width = max(map(len, rows))
    return torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows], device=device)


def last(count: int, device: torch.device) -> Tensor | int:
    """What a model is told to give the logits of so many last tokens alone. On a CPU their places: those are copied,
    and of a view the head makes a product a row (models/head.py). On GPUs their number: accelerate puts all tensors on
    the first one, and the head may be on another."""
    return torch.arange(-count, 0) if device.type == "cpu" else count


def following(model: PreTrainedModel, ids: Tensor, real: Tensor, positions: Tensor, cache: DynamicCache) -> Tensor:
    """Logits [B, vocabulary] of the token after these; real: which of these and of those before them there are."""
    where = {"attention_mask": real, "position_ids": positions, "cache": cache}
    return model(input_ids=ids, **where, logits_to_keep=last(1, ids.device)).logits[:, -1]


def read(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], pad: int, prefix: DynamicCache | None
) -> tuple[DynamicCache, Tensor, Tensor]:
    """(cache of all rows, which of its tokens there are: int64 [B, T], next tokens' logits [B, vocabulary]).

    Rows are padded to the longest prompt, on the left or after the prefix, but computed beside those of about their own
    length."""
    device = device_of(model)
    shared = prefix.get_seq_length() if prefix else 0
    lengths = [len(prompt) - shared for prompt in prompts]
    width = shared + max(lengths)
    cache = new_cache(model)
    # In a sliding window padding counts as tokens: caches of unlike width are no parts of one.
    joins = all(isinstance(layer, GrowingLayer) for layer in cache.layers)
    groups = alike(lengths) if joins else [list(range(len(prompts)))]
    real = torch.zeros(len(prompts), width, dtype=torch.long, device=device)
    logits: dict[int, Tensor] = {}
    for group in groups:
        ids = padded([prompts[row][shared:] for row in group], pad, device)
        own = padded([[1] * lengths[row] for row in group], 0, device)
        own = torch.cat([own.new_ones(len(group), shared), own], dim=1)
        rows = torch.tensor(group, device=device)
        real[rows, width - own.shape[1] :] = own
        positions = (own.cumsum(1) - 1).clamp_min(0)[:, shared:]
        part = deepcopy(prefix) if prefix else new_cache(model)
        if prefix:
            part.batch_select_indices(torch.zeros(len(group), dtype=torch.long))
        for row, found in zip(group, following(model, ids, own, positions, part), strict=True):
            logits[row] = found
        if len(groups) == 1:
            cache = part
        else:
            for layer, of_part in zip(cache.layers, part.layers, strict=True):
                layer.take(rows, len(prompts), width, of_part)
    return cache, real, torch.stack([logits[row] for row in range(len(prompts))])


def alike(lengths: Sequence[int]) -> list[list[int]]:
    """Rows in groups of about one length, the shortest first; in a group in their order."""
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        if not groups or lengths[row] > LONGER * lengths[groups[-1][0]] + MORE:  # the shortest of its group
            groups.append([])
        groups[-1].append(row)
    return [sorted(group) for group in groups]


@torch.inference_mode()
def prefix_cache(model: PreTrainedModel, tokens: Sequence[int]) -> DynamicCache | None:
    """Keys and values of tokens that many prompts begin with, [1, heads, T, d] a layer.

    None for models with sliding windows or states: padding between the prefix and the rest would count as part of
    them; and for those that keep one compressed vector a token (multi-head latent attention)."""
    cache = new_cache(model)
    if getattr(model.config.get_text_config(), "kv_lora_rank", None):
        return None
    if not all(isinstance(layer, GrowingLayer) for layer in cache.layers):
        return None
    ids = padded([tokens], 0, device_of(model))
    model(input_ids=ids, cache=cache, logits_to_keep=last(1, ids.device))
    return cache


class StopStrings:
    """Tells when a continuation's text holds one of some strings, decoding only where a token can complete one."""

    def __init__(self, tokenizer, stops: Sequence[str]):
        self.tokenizer, self.stops = tokenizer, [stop for stop in stops if stop]
        # Twice, as Llama 2's tokenizer drops the space that a text begins with.
        pieces = tokenizer.batch_decode([[token, token] for token in range(len(tokenizer))], skip_special_tokens=False)
        last = {stop[-1] for stop in self.stops}
        # A character can be spread over several tokens, each of which decodes to the replacement character.
        self.completes = [any(c in piece for c in last) or "\ufffd" in piece for piece in pieces]
        # A token may hold half a stop string and more; one byte is the least it stands for.
        self.window = 2 * max((len(stop.encode()) for stop in self.stops), default=0)

    def __call__(self, tokens: list[int]) -> bool:
        token = tokens[-1]
        if token < len(self.completes) and not self.completes[token]:
            return False
        text = self.tokenizer.decode(tokens[-self.window :], skip_special_tokens=False)
        return any(stop in text for stop in self.stops)
