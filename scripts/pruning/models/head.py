"""Cross-entropies and divergences of a model's own logits, without the logits of all tokens in memory at once.

A vocabulary of 152k words makes 1.2 GB of float32 logits of a sample of 2,048 tokens, and a softmax and its gradient as
much again each. So the tokens go through the head in pieces. The gradient of a cross-entropy computes a piece again
instead of keeping it; that of a divergence is made with it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_outputs import MoeModelOutputWithPast

from pruning.models import families

LOGITS = 2**26
"""So many logits are in memory at once: 268 MB in float32, of which a softmax and its gradient need as much again."""


Teacher = Callable[[Tensor], Tensor]
"""The logits [B, T, V] of another model, of what its head gets [B, T, d]."""

IN_CACHE = 2**20
"""So many logits are worked on at once on a CPU: 4 MB in float32, of six tokens with a vocabulary of 152k."""


def hidden_states(model: nn.Module, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    """What the head gets [B, T, d]: the residual stream after the final norm. mask [B, T]: 1 for real tokens."""
    return model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)[0]


def token_losses(model: nn.Module, hidden: Tensor, ids: Tensor) -> Tensor:
    """Next-token cross-entropy in nats, float32 [B, T - 1], of hidden [B, T, d] and token ids [B, T]; 0 for -100."""
    targets, size = ids[:, 1:], _size(model, hidden)
    if size >= targets.shape[1]:
        return _losses(model, hidden, targets)
    pieces = zip(_cut(hidden, size), targets.split(size, dim=1), strict=False)  # nothing follows the last token
    again = partial(checkpoint, _losses, use_reentrant=False) if torch.is_grad_enabled() else _losses
    return torch.cat([again(model, *piece) for piece in pieces], dim=1)


@torch.no_grad()
def losses_and_divergences(
    model: nn.Module, hidden: Tensor, ids: Tensor, teacher: Teacher, wanted: Tensor
) -> tuple[Tensor, Tensor]:
    """What token_losses and divergences give, from one product of the model's head; without gradients. Losses are
    the same bits as token_losses gives without gradients."""
    targets, size = nn.functional.pad(ids[:, 1:], (0, 1), value=-100), _size(model, hidden)
    if size >= hidden.shape[1] - 1:
        size = hidden.shape[1]
    pieces = zip(*(_cut(each, size) for each in (hidden, wanted)), targets.split(size, dim=1), strict=True)
    losses, divergences = [], []
    for own, theirs, following in pieces:
        logits = logits_of(model, own)
        losses.append(_in_cache(_loss, logits, following.to(logits.device)))
        divergences.append(_in_cache(_divergence, logits, teacher(theirs).to(logits.device)))
    return torch.cat(losses, dim=1)[:, :-1], torch.cat(divergences, dim=1)[:, :-1]


def divergences(model: nn.Module, hidden: Tensor, teacher: Teacher, wanted: Tensor) -> Tensor:
    """KL divergence of a model's next tokens from a teacher's, in nats, float32 [tokens]; hidden and wanted [tokens, d]
    are what their heads get. Gradients reach `hidden` alone."""
    size = _size(model, hidden[None], 2)
    pieces = zip(hidden.split(size), wanted.split(size), strict=True)
    return torch.cat([_WithGradient.apply(*piece, model, teacher) for piece in pieces])


class _WithGradient(torch.autograd.Function):
    """The gradient is made with the divergence, so that nothing is computed again: of a token by its logits it is what
    the model gives each next token less what the teacher gives it."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, wanted: Tensor, model: nn.Module, teacher: Teacher) -> Tensor:
        with torch.enable_grad():
            own = hidden.detach()[None].requires_grad_()
            logits = logits_of(model, own)
        target, gradient, found = teacher(wanted[None]).to(logits.device), torch.empty_like(logits), []
        parts = (each[0].split(_at_once(logits)) for each in (logits.detach(), target, gradient))
        for ours, theirs, into in zip(*parts, strict=True):
            ours, theirs = ours.float().log_softmax(-1), theirs.float().log_softmax(-1)
            found.append(nn.functional.kl_div(ours, theirs, reduction="none", log_target=True).sum(-1))
            into.copy_(ours.exp_().sub_(theirs.exp_()))
        ctx.save_for_backward(*torch.autograd.grad(logits, own, gradient))
        return torch.cat(found)

    @staticmethod
    def backward(ctx: Any, share: Tensor) -> tuple[Tensor, None, None, None]:
        [gradient] = ctx.saved_tensors
        return (gradient[0] * share[:, None].to(gradient.device)).to(gradient.dtype), None, None, None


def divergences_of(model: nn.Module, hidden: Sequence[Tensor], wanted: Tensor) -> Tensor:
    """KL divergences of next tokens, in nats, float32 [hidden, tokens], from those that the model makes of `wanted`,
    where it gets each of `hidden`; all [tokens, d]. The logits of `wanted` are made once."""
    size = max(1, LOGITS // (2 * model.config.get_text_config().vocab_size))
    device, found = families.device(model, model.get_output_embeddings()), []
    for piece, *pieces in zip(*(each.split(size) for each in (wanted, *hidden)), strict=True):
        target = logits_of(model, piece[None].to(device))
        found.append([_in_cache(_divergence, logits_of(model, own[None].to(device)), target)[0] for own in pieces])
    return torch.cat([torch.stack(own) for own in found], dim=1)


def _size(model: nn.Module, hidden: Tensor, heads: int = 1) -> int:
    """Tokens of each row of hidden [B, T, d] whose logits, of so many heads, may be in memory at once."""
    return max(1, LOGITS // (heads * len(hidden) * model.config.get_text_config().vocab_size))


def _cut(hidden: Tensor, size: int) -> list[Tensor]:
    """Pieces of `size` tokens of hidden [B, T, d], copied: of a view of several rows the head makes a product a row,
    which takes twenty times as long on a CPU (bfloat16, torch 2.13)."""
    return [piece.contiguous() for piece in hidden.split(size, dim=1)]


def _divergence(logits: Tensor, wanted: Tensor) -> Tensor:
    found, target = logits.float().log_softmax(-1), wanted.float().log_softmax(-1)
    return nn.functional.kl_div(found, target, reduction="none", log_target=True).sum(-1)


def _in_cache(function: Callable[[Tensor, Tensor], Tensor], logits: Tensor, other: Tensor) -> Tensor:
    """Return [B, T]: a function of logits [B, T, V] and of another tensor [B, T, ...], for each token.

    A CPU works on a few tokens at once, so that their float32 copies stay in its cache: the same bits, faster."""
    pieces = zip(*(each.flatten(0, 1).split(_at_once(logits)) for each in (logits, other)), strict=True)
    return torch.cat([function(*piece) for piece in pieces]).view(logits.shape[:2])


def _at_once(logits: Tensor) -> int:
    """How many tokens' logits [B, T, V] are worked on at once: of a GPU all."""
    size = IN_CACHE // logits.shape[-1] if logits.device.type == "cpu" else logits.shape[:-1].numel()
    return max(1, size)


@torch.no_grad()
def drawn_tokens(model: nn.Module, hidden: Tensor, seed: int) -> Tensor:
    """Token ids [B, T] in the place of the text's own, each drawn from what the model expects there, given hidden
    [B, T, d]; the first ones, which nothing predicts, are 0. Drawn on the CPU: the same with and without a GPU."""
    generator = torch.Generator().manual_seed(seed)
    drawn: list[Tensor] = []
    for piece in _cut(hidden[:, :-1], _size(model, hidden)):
        chances = logits_of(model, piece).float().softmax(-1).cpu()
        drawn.append(torch.multinomial(chances.flatten(0, 1), 1, generator=generator).view(chances.shape[:2]))
    return torch.cat([torch.zeros_like(drawn[0][:, :1]), *drawn], dim=1).to(hidden.device)


def logits_of(model: nn.Module, hidden: Tensor, own_head: nn.Module | None = None) -> Tensor:
    """The model's own logits [B, T, V] of hidden [B, T, d], with all that its family does to them; or those of another
    model of the family, whose head is given."""
    if own_head is not None:
        hidden = hidden.to(own_head.weight.device)  # of a model on several GPUs hooks do that for its own head alone
    with _answering(model, hidden, own_head or model.get_output_embeddings()):
        return model(input_ids=None, inputs_embeds=hidden, use_cache=False).logits


def _losses(model: nn.Module, hidden: Tensor, targets: Tensor) -> Tensor:
    logits = logits_of(model, hidden)[:, : targets.shape[1]]
    return _in_cache(_loss, logits, targets.to(logits.device))


def _loss(logits: Tensor, targets: Tensor) -> Tensor:
    found = nn.functional.cross_entropy(logits.float().flatten(0, -2), targets.flatten(), reduction="none")
    return found.view_as(targets)


class _Given(nn.Module):
    """In place of all but the head: says what it was given."""

    def __init__(self, hidden: Tensor):
        super().__init__()
        self.hidden = hidden

    def forward(self, **_) -> MoeModelOutputWithPast:
        return MoeModelOutputWithPast(last_hidden_state=self.hidden)


@contextmanager
def _answering(model: nn.Module, hidden: Tensor, own_head: nn.Module) -> Iterator[None]:
    backbone, whole = model.base_model, model.get_output_embeddings()
    setattr(model, model.base_model_prefix, _Given(hidden))
    model.set_output_embeddings(own_head)
    try:
        yield
    finally:
        setattr(model, model.base_model_prefix, backbone)
        model.set_output_embeddings(whole)
