"""A folder's tokenizer in a GGUF file, as llama.cpp reads it.

Merges, special tokens and the chat template are read by llama.cpp's own package `gguf` (MIT). Here are the tokens with
their kinds, and the name of the pre-tokenizer: the rules of tokenizer.json are those of a name, or are refused.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruning.core.errors import InputError
from pruning.core.files import read_object, reading

if TYPE_CHECKING:
    from gguf import GGUFWriter

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
ONE_DIGIT = rf"{_CONTRACTIONS}|\p{{N}}{_REST}"
"""Qwen 2 and 3."""
THREE_DIGITS = rf"{_CONTRACTIONS}|\p{{N}}{{1,3}}{_REST}"
"""Llama 3, SmolLM 3, and GPT-4's in OLMo 2."""

Rules = tuple[tuple[str, ...], ...]
"""Of a pre-tokenizer: its steps, each a kind and what matters of it."""
PRE_TOKENIZERS: dict[tuple[Rules, bool], str] = {
    ((("ByteLevel", "regex"),), False): "gpt-2",
    ((("Digits", "each"), ("ByteLevel", "regex")), False): "smollm",
    ((("Split", ONE_DIGIT), ("ByteLevel", "plain")), False): "qwen2",
    ((("Split", THREE_DIGITS), ("ByteLevel", "plain")), True): "llama-bpe",
    ((("Split", THREE_DIGITS), ("ByteLevel", "plain")), False): "dbrx",
}
"""Rules, and whether a whole word of the vocabulary is taken without merging -> llama.cpp's name."""


def write(writer: "GGUFWriter", folder: Path, size: int) -> None:
    """Add the tokenizer of a model directory with `size` embeddings.

    Raises InputError if it is none that llama.cpp has by name."""
    import gguf

    content = read(folder)
    model = content["model"]
    tokens, kinds = vocabulary(content, size)
    if model.get("byte_fallback"):
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_scores(scores(model, tokens))
        writer.add_add_space_prefix(space_before(content, folder))
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre_tokenizer(content, folder))
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    with reading(folder, what="the special tokens of its settings cannot be read"):
        special = gguf.SpecialVocab(folder, load_merges=not model.get("byte_fallback"), n_vocab=size)
    special.add_special_token = {"bos": False, "eos": False} | special.add_special_token  # else it depends on the name
    special.add_to_gguf(writer, quiet=True)


def read(folder: Path) -> dict[str, Any]:
    """tokenizer.json. Raises InputError if there is none, or if it has no merges."""
    content = read_object(folder / "tokenizer.json", "a GGUF file holds its tokenizer, made from that")
    if content["model"].get("type") != "BPE" or not content["model"].get("merges"):
        raise InputError(f"gguf: {folder}/tokenizer.json: llama.cpp wants a BPE model with merges here")
    return content


def vocabulary(content: Mapping[str, Any], size: int) -> tuple[list[str], list[int]]:
    """`size` tokens and their kinds; embeddings beyond the vocabulary get names of their own, which no text has, and
    tokens beyond the embeddings (Gemma 3's for images) are left out."""
    from gguf import TokenType

    byte_fallback, unknown = content["model"].get("byte_fallback"), content["model"].get("unk_token")
    tokens = [f"[PAD{number}]" for number in range(size)]
    kinds = [TokenType.UNUSED] * size
    for token, number in content["model"]["vocab"].items():
        if number >= size:
            continue
        byte = byte_fallback and len(token) == 6 and token.startswith("<0x")
        kinds[number] = TokenType.BYTE if byte else TokenType.UNKNOWN if token == unknown else TokenType.NORMAL
        tokens[number] = token
    for added in content.get("added_tokens", []):
        if added["id"] >= size:
            continue
        text = added["content"]
        own = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
        kinds[added["id"]] = TokenType.UNKNOWN if byte_fallback and text == unknown else own
        tokens[added["id"]] = text.replace("▁", " ") if own is TokenType.USER_DEFINED else text
    return tokens, kinds


def pre_tokenizer(content: Mapping[str, Any], folder: Path) -> str:
    """llama.cpp's name of it. Raises InputError if it has none here."""
    normalizer = content.get("normalizer")
    rules = tuple(map(rule, steps(content.get("pre_tokenizer"))))
    found = PRE_TOKENIZERS.get((rules, bool(content["model"].get("ignore_merges"))))
    if found is None or normalizer not in (None, {"type": "NFC"}):
        shown = ", ".join(" ".join(part) for part in rules) or "none"
        shown += f"; normalizer {normalizer['type']}" if normalizer else ""
        raise InputError(
            f"gguf: {folder}/tokenizer.json: llama.cpp knows pre-tokenizers by name, and this one ({shown}) is none of "
            f"{', '.join(PRE_TOKENIZERS.values())} (scripts/pruning/models/gguf/tokenizer.py)"
        )
    return found


def steps(part: Mapping[str, Any] | None) -> Sequence[Mapping[str, Any]]:
    return part["pretokenizers"] if part and part["type"] == "Sequence" else [part] if part else []


def rule(step: Mapping[str, Any]) -> tuple[str, ...]:
    kind = step["type"]
    if kind == "ByteLevel" and not step.get("add_prefix_space"):
        return kind, "regex" if step.get("use_regex", True) else "plain"
    if kind == "Digits" and step.get("individual_digits"):
        return kind, "each"
    if kind == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
        return kind, step["pattern"].get("Regex", "")
    return kind, "in another way"


def scores(model: Mapping[str, Any], tokens: Sequence[str]) -> list[float]:
    """Of each token, for SentencePiece's rule of merging the best neighbours first: the earlier a merge, the better."""
    rank: dict[str, int] = {}
    for number, merge in enumerate(model["merges"]):
        rank.setdefault("".join(merge.split(" ") if isinstance(merge, str) else merge), number)
    return [-float(rank.get(token, -1) + 1) for token in tokens]


def space_before(content: Mapping[str, Any], folder: Path) -> bool:
    """Whether text gets a space before it. Raises InputError for other rules than SentencePiece's."""
    normalizer = content.get("normalizer") or {}
    parts = normalizer.get("normalizers", [normalizer] if normalizer else [])
    splits = steps(content.get("pre_tokenizer"))
    prepend = {"type": "Prepend", "prepend": "▁"} in parts
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"} in parts
    metaspace = [step for step in splits if step["type"] == "Metaspace" and step.get("split") is False]
    if replace and len(parts) == 1 + prepend:
        return prepend  # Gemma splits at spaces as well, of which its normalizer leaves none
    if metaspace and len(splits) == 1 and not parts:
        return metaspace[0].get("prepend_scheme") != "never"
    raise InputError(f"gguf: {folder}/tokenizer.json: its normalizer is not SentencePiece's: {json.dumps(normalizer)}")
