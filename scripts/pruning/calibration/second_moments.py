"""Second moments of the down_proj inputs, S = Σ_t a aᵀ, a layer at a time: what ridge compensation is fitted on.

Every layer runs over all micro-batches before the next one does, on hidden states kept between them, as in SparseGPT
(Frantar & Alistarh 2023, arXiv 2301.00774): one forward pass in all, with the S of one layer in memory.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pruning.calibration.prepare import Batch
from pruning.core import artifacts, chain
from pruning.core.errors import InputError
from pruning.models import families
from pruning.models.structures import ffn

HELD_OUT_EVERY = 5


def held_out(samples: Tensor) -> Tensor:
    """Which samples, by number, are for the choice of λ rather than for the fit: every 5th; bool of the same shape."""
    return samples % HELD_OUT_EVERY == HELD_OUT_EVERY - 1


def token_counts(batches: Sequence[Batch]) -> dict[str, int]:
    """Counted tokens of either part. Raises InputError if there are too few samples to hold one out."""
    counts = {"tokens_fit": 0, "tokens_held_out": 0}
    for batch in batches:
        tokens, held = batch.counted.sum(1), held_out(batch.samples)
        counts["tokens_fit"] += int(tokens[~held].sum())
        counts["tokens_held_out"] += int(tokens[held].sum())
    if not counts["tokens_held_out"]:
        raise InputError(
            f"calibration: `compensate: ridge` holds out every {HELD_OUT_EVERY}th sample: raise `samples` to "
            f"{HELD_OUT_EVERY} or more"
        )
    return counts


@torch.inference_mode()
def second_moments(model: nn.Module, batches: Sequence[Batch]) -> Iterator[dict[str, Tensor]]:
    """S of one layer after the other, over the counted tokens: `fit` and `held_out`, float32 [n, n] on the CPU.

    Products within a micro-batch are float32, sums over micro-batches float64 (float32 on a GPU).
    Raises InputError if a layer's S is not finite, or if layers use each other's keys and values."""
    if getattr(model.config.get_text_config(), "num_kv_shared_layers", 0):
        raise InputError(
            f"compensate: ridge runs layers one by one; those of {type(model).__name__} share keys and values"
        )
    sites, layers = ffn.sites(model), families.decoder_layers(model)
    device = model.get_input_embeddings().weight.device
    hidden: list[Tensor | None] = [None] * len(batches)  # [B, T, d] before the layer, on the CPU; None: the embeddings
    for index, (layer, down) in enumerate(zip(layers, sites, strict=True)):
        wide = torch.float32 if down.weight.device.type == "cuda" else torch.float64
        shape = (down.in_features, down.in_features)
        sums = {part: torch.zeros(shape, dtype=wide, device=down.weight.device) for part in ("fit", "held_out")}
        with idle([other for other in layers if other is not layer]):
            for number, batch in enumerate(batches):
                hidden[number] = run_layer(model, layer, down, batch, hidden[number], sums, device)
        if not all(torch.isfinite(total.sum()) for total in sums.values()):
            raise InputError(f"NaN or Inf in activations of layer {index}: check the weights, or use a wider dtype")
        yield {part: total.float().cpu() for part, total in sums.items()}


def run_layer(
    model: nn.Module,
    layer: nn.Module,
    site: nn.Module,
    batch: Batch,
    hidden: Tensor | None,
    sums: dict[str, Tensor],
    device: torch.device,
) -> Tensor:
    """Add one micro-batch to the layer's sums; hidden states after it [B, T, d], on the CPU. All other layers idle."""

    def resume(_, args: tuple):
        return None if hidden is None else (hidden.to(args[0].device), *args[1:])

    def accumulate(_, args: tuple):
        held = held_out(batch.samples)
        for part, rows in (("fit", ~held), ("held_out", held)):
            a = args[0][(batch.counted & rows[:, None]).to(args[0].device)].float()  # [tokens, n]
            if len(a):
                sums[part] += a.T @ a

    def leave(_, args: tuple, output):
        outputs.append((output[0] if isinstance(output, tuple) else output).cpu())

    outputs: list[Tensor] = []
    hooks = [
        layer.register_forward_pre_hook(resume),
        site.register_forward_pre_hook(accumulate),
        layer.register_forward_hook(leave),
    ]
    try:
        mask = batch.counted.to(device).long()
        families.backbone(model)(input_ids=batch.ids.to(device), attention_mask=mask, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return outputs[0]


@contextmanager
def idle(layers: Sequence[nn.Module]) -> Iterator[None]:
    """These decoder layers hand on what they get, so that a forward pass runs the others alone.

    The model itself so makes each layer's masks and positions, which differ between layers in some families."""

    def hand_on(hidden_states: Tensor, *_, **__) -> Tensor:
        return hidden_states

    own = [vars(layer).get("forward") for layer in layers]  # accelerate's, in a model spread over GPUs
    for layer in layers:
        layer.forward = hand_on
    try:
        yield
    finally:
        for layer, forward in zip(layers, own, strict=True):
            del layer.forward
            if forward:
                layer.forward = forward


def read(directory: Path, widths: Sequence[int], manifest: Path | None = None) -> Callable[[int], dict]:
    """A function from a layer's number to what compensation takes: `fit`, `held_out`, `tokens_fit`, `tokens_held_out`.

    Raises InputError if the directory is not whole, or of a model of other widths."""
    manifest = manifest or directory / "manifest.json"
    content = artifacts.read_json(manifest, "second_moments")
    if content["widths"] != list(widths):
        raise InputError(
            f"{directory}: second moments of another model: layer widths {content['widths']}, not {widths}"
        )

    chain.check_files(directory, manifest, content)

    def layer_moments(layer: int) -> dict:
        path = directory / f"{layer}.safetensors"
        if not path.exists():
            raise InputError(f"{path}: no such file; run snakemake to make it")
        moments = {part: tensor.numpy() for part, tensor in load_file(path).items()}
        return {**moments, **{key: content[key] for key in ("tokens_fit", "tokens_held_out")}}

    return layer_moments
