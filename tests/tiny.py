"""Models small enough to check by brute force, made on the spot."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte-level character, and an end token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<|end|>", *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    from tokenizers import decoders

    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", pad_token="<|end|>")


def qwen2(layers: int = 2, seed: int = 0, **changes) -> Qwen2ForCausalLM:
    return _spread(Qwen2ForCausalLM, Qwen2Config, layers, seed, tie_word_embeddings=True, **changes)


def llama(layers: int = 2, seed: int = 0, **changes) -> LlamaForCausalLM:
    return _spread(LlamaForCausalLM, LlamaConfig, layers, seed, **changes)


def _spread(model, config, layers, seed, **changes):
    """Random weights, larger than usual and with uneven norms, so that nothing is nearly constant."""
    torch.manual_seed(seed)
    made = model(config(vocab_size=257, num_hidden_layers=layers, **{**SHAPE, **changes}))
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.5 if "norm" in name else 0.15) + ("norm" in name))
    return made.eval().requires_grad_(False)


def save(model, directory: Path) -> Path:
    model.save_pretrained(directory)
    tokenizer().save_pretrained(directory)
    return directory
