"""A smaller vocabulary of a byte-level BPE tokenizer: which tokens stay, and the files that say so.

BPE joins the neighbours whose merge has the lowest rank until none is left to join. A token is kept with all that it is
merged from, so a word whose tokens all stay is joined as before; any other falls apart into tokens that are kept, at
last into bytes, which all stay. Tokens keep their order: a row of the embedding has the number of its place.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tokenizers
from jinja2 import Environment
from tokenizers.pre_tokenizers import ByteLevel

from pruning.core.errors import InputError
from pruning.core.files import read_object, reading
from pruning.models import multimodal

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FILE = "tokenizer.json"
SETTINGS = ("config.json", "generation_config.json")
"""Files that name tokens by their numbers, under keys that end in `_token_id`."""
UNMAPPED = ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "forced_decoder_ids", "sequence_bias")
"""Settings of generation that name tokens otherwise: refused."""
AROUND = ("padding", "post_processor")
"""Parts of FILE that name tokens by their numbers as well."""
STALE = ("vocab.json", "merges.txt", "tokenizer.model")
"""Files of older tokenizers of the same model, which stock tools read only where FILE is missing: left out."""
Kept = Sequence[int]
"""The tokens' numbers in the whole vocabulary, growing; the new number of a token is its place here."""


class Tokenizer:
    """FILE of a model directory, and what beside it names tokens.

    Raises InputError if there is none, or if it is not a byte-level BPE, which alone has every text without a token of
    its own for it."""

    def __init__(self, folder: Path):
        self.folder, self.content = folder, read_object(folder / FILE)
        self.settings = {name: read_object(folder / name) for name in SETTINGS if (folder / name).is_file()}
        if multimodal.is_multimodal(self.settings["config.json"]) or (folder / multimodal.FOLDER).is_dir():
            raise InputError(f"{folder}: the text part of a multimodal model keeps its vocabulary, which marks images")
        self.size: int = self.settings["config.json"]["vocab_size"]
        if found := _other_kind(self.content):
            raise InputError(f"{folder}/{FILE}: {found}: only the vocabulary of a byte-level BPE can be pruned")
        model = self.content["model"]
        self.numbers: dict[str, int] = model["vocab"]
        self.ranks: dict[tuple[str, str], int] = {pair(merge): rank for rank, merge in enumerate(model["merges"])}
        self.added = {token["content"]: token["id"] for token in self.content.get("added_tokens") or []}
        self.texts = {number: text for text, number in {**self.numbers, **self.added}.items()}
        if named := [key for own in self.settings.values() for key in UNMAPPED if own.get(key)]:
            raise InputError(f"{folder}: {named[0]} names tokens by their numbers: remove it to prune the vocabulary")
        if beyond := [text for text, number in self.added.items() if number >= self.size]:
            raise InputError(
                f"{folder}/{FILE}: token {beyond[0]!r} has no embedding, so the vocabulary cannot be pruned"
            )

    def parts(self, text: str) -> tuple[str, str] | None:
        """Return the two tokens that BPE merges last on its way to a token; None of a single byte, and of what no
        merges make (a whole word of a tokenizer with `ignore_merges`)."""
        pieces = list(text)
        while len(pieces) > 2:
            rank, place = min(
                (self.ranks.get(pair, math.inf), place)
                for place, pair in enumerate(zip(pieces, pieces[1:], strict=False))
            )
            if rank == math.inf:
                return None
            pieces[place : place + 2] = ["".join(pieces[place : place + 2])]
        return tuple(pieces) if tuple(pieces) in self.ranks else None

    def _new(self, number: int, found: Mapping[int, str]) -> list[int]:
        """Return a token and what it is merged from, but for what is found already, whose parts are as well."""
        new, pending = [], [number]
        while pending:
            if (number := pending.pop()) not in found and number not in new:
                new.append(number)
                text = self.texts.get(number, "")
                pending += [] if text in self.added else [self.numbers[part] for part in self.parts(text) or ()]
        return new

    @cached_property
    def required(self) -> dict[int, str]:
        """The tokens that always stay -> why: `byte`, `special` (and added), `template` (of the chat format).

        Raises InputError for a chat template that cannot be read."""
        found = {self.numbers[byte]: "byte" for byte in ByteLevel.alphabet() if byte in self.numbers}
        named: list[Any] = []
        for part in (*self.settings.values(), {key: self.content.get(key) for key in AROUND}):
            _renumbered(part, named.append)
        named += [int(number) for numbers in _added(self.folder).values() for number in numbers]
        named += [self.numbers[self.content["model"]["unk_token"]]] if self.content["model"].get("unk_token") else []
        for why, numbers in (("special", [*self.added.values(), *named]), ("template", self._in_chat())):
            for number in numbers:
                if isinstance(number, int) and number in self.texts:  # and no spare row of the embedding
                    found |= dict.fromkeys(self._new(number, found), why)
        return found

    def _in_chat(self) -> list[int]:
        """Tokens of what chat templates write of their own: the text between their tags, and their strings."""
        environment, texts = Environment(trim_blocks=True, lstrip_blocks=True, autoescape=True), []
        for template in _templates(self.folder):
            with reading(self.folder, what="its chat template cannot be read"):
                found = environment.lexer.tokenize(template)
                texts += [each.value for each in found if each.type in ("data", "string")]
        return self.encoded(texts)

    def encoded(self, texts: Sequence[str]) -> list[int]:
        """Return the tokens of texts, one after the other, without what is put around a text."""
        own = tokenizers.Tokenizer.from_str(json.dumps(self.content))
        own.no_truncation()  # as transformers resets them
        own.no_padding()
        encoded = own.encode_batch(texts, add_special_tokens=False)
        return [number for each in encoded for number in each.ids]

    def budget(self, asked: int | str) -> int:
        """Return how many tokens a budget keeps: a number, or a share of the rows that the embedding has (`30%`).

        Raises InputError for as many as there are, and for fewer than must stay."""
        wanted = asked if isinstance(asked, int) else round(float(asked.removesuffix("%")) / 100 * self.size)
        if wanted >= len(self.texts):
            raise InputError(f"vocabulary: {asked}: {self.folder} has {len(self.texts):,} tokens: give fewer")
        if wanted < len(self.required):
            raise InputError(
                f"vocabulary: {asked}: {len(self.required):,} tokens of {self.folder} always stay (single bytes, "
                "special tokens, what its chat template writes): give that many or more"
            )
        return wanted

    def keep(self, asked: int | str, counts: Mapping[int, int]) -> dict[int, str]:
        """Choose the tokens that stay -> why, by growing number: those that are `required`; then those of the `data`
        with what they are merged from (`part`), the most frequent ones first; then others by their merges (`rank`).

        counts: token -> how often the data have it. Raises InputError as `budget` does."""
        size, found = self.budget(asked), dict(self.required)
        order = [(number, "data") for number in sorted(counts, key=lambda own: (-counts[own], own)) if counts[number]]
        merged = [self.numbers["".join(pair)] for pair in self.ranks]
        order += [(number, "rank") for number in (*merged, *sorted(self.texts))]
        while len(found) < size:  # again where what was left out for its many parts fits now
            for number, why in order:
                new = self._new(number, found)
                if new and len(found) + len(new) <= size:
                    found |= dict.fromkeys(new, "part") | {number: why}
        return dict(sorted(found.items()))


def pair(merge: str | Sequence[str]) -> tuple[str, ...]:
    """Return the two tokens that a merge joins, as tokenizer.json has it."""
    return tuple(merge.split(" ") if isinstance(merge, str) else merge)


def _other_kind(content: Mapping[str, Any]) -> str | None:
    """What a tokenizer is that is no byte-level BPE; None of one."""
    model = content.get("model") or {}
    if model.get("type") != "BPE":
        return f"its model is {model.get('type')}"
    if model.get("byte_fallback"):
        return "its model is BPE with `byte_fallback` (SentencePiece)"
    decoder = content.get("decoder") or {}
    if "ByteLevel" not in [step.get("type") for step in (decoder, *decoder.get("decoders", ()))]:
        return f"its model is BPE, and its decoder {decoder.get('type')}"
    if affixes := [key for key in ("continuing_subword_prefix", "end_of_word_suffix") if model.get(key)]:
        return f"its model is BPE with `{affixes[0]}`"
    return None


def _templates(folder: Path) -> Iterator[str]:
    """Yield the chat templates of a folder, wherever they are."""
    for file in sorted(folder.glob("*.jinja")):
        with reading(file):
            yield file.read_text(encoding="utf-8")
    for file in (folder / "chat_template.json", folder / "tokenizer_config.json"):
        found = read_object(file).get("chat_template") if file.is_file() else None
        yield from [own["template"] for own in found] if isinstance(found, list) else [found] if found else []


def _added(folder: Path) -> dict[str, Mapping[Any, Any]]:
    """Return the numbers of added tokens -> the tokens, by the file, beside tokenizer.json, that has them."""
    found = {}
    if (file := folder / "tokenizer_config.json").is_file():
        found[file.name] = read_object(file).get("added_tokens_decoder") or {}
    if (file := folder / "added_tokens.json").is_file():
        found[file.name] = {number: text for text, number in read_object(file).items()}
    return found


def _renumbered(part: Any, new: Callable[[int], int | None]) -> Any:
    """Return a part of a JSON file with `new` of each number of a token, which files of settings have under keys that
    end in `_token_id`, and tokenizer.json in AROUND. Of several, those without a new number are left out."""
    if isinstance(part, list):
        return [_renumbered(each, new) for each in part]
    if not isinstance(part, dict):
        return part
    made = {}
    for key, value in part.items():
        if key in ("sep", "cls") and isinstance(value, list):  # a token's text and number
            made[key] = [value[0], new(value[1])]
        elif not key.endswith(("_token_id", "_token_ids")) and key not in ("pad_id", "ids"):
            made[key] = _renumbered(value, new)
        elif isinstance(value, list):
            made[key] = [number for each in value if (number := new(each)) is not None]
        else:
            made[key] = new(value)
    return made


def tokenizer(content: Mapping[str, Any], kept: Kept) -> dict[str, Any]:
    """Return FILE's content with the kept tokens alone, numbered anew, and the merges that make these of these."""
    new, model = {number: place for place, number in enumerate(kept)}, content["model"]
    numbers = {text: new[number] for text, number in model["vocab"].items() if number in new}
    merges = [merge for merge in model["merges"] if {*pair(merge), "".join(pair(merge))} <= numbers.keys()]
    added = [{**token, "id": new[token["id"]]} for token in content.get("added_tokens") or []]
    own = {"model": {**model, "vocab": numbers, "merges": merges}, "added_tokens": added}
    return {**content, **{key: _renumbered(content[key], new.get) for key in AROUND if content.get(key)}, **own}


def settings(content: Mapping[str, Any], kept: Kept) -> dict[str, Any]:
    """Return config.json or generation_config.json for the kept tokens."""
    made = _renumbered(content, {number: place for place, number in enumerate(kept)}.get)
    return made | ({"vocab_size": len(kept)} if "vocab_size" in content else {})


def files(folder: Path, kept: Kept) -> dict[str, dict[str, Any]]:
    """Return name -> content of the JSON files that change, but for config.json. folder: the whole model's."""
    made = {FILE: tokenizer(read_object(folder / FILE), kept)}
    new = {number: place for place, number in enumerate(kept)}
    if (folder / SETTINGS[1]).is_file():
        made[SETTINGS[1]] = settings(read_object(folder / SETTINGS[1]), kept)
    for name, tokens in _added(folder).items():
        left = {new[int(number)]: token for number, token in tokens.items() if int(number) in new}
        if name == "added_tokens.json":
            made[name] = {text: number for number, text in left.items()}
        else:
            own = read_object(folder / name)
            made[name] = own | ({"added_tokens_decoder": {str(key): left[key] for key in left}} if tokens else {})
    return made


def kept_of(whole: Path, small: Path) -> list[int]:
    """Return the numbers that a smaller model's tokens, in their order, have in the whole model. Raises InputError for
    models whose tokenizers are not of one kind."""
    numbers = {text: number for number, text in Tokenizer(whole).texts.items()}
    texts = Tokenizer(small).texts
    with reading(small / FILE, "give models of one vocabulary", f"has other tokens than {whole}"):
        return [numbers[texts[number]] for number in range(len(texts))]


def shrink(model: "PreTrainedModel", kept: Kept | slice) -> None:
    """Cut the embedding and the head of a loaded model, in place, to the rows of these tokens; a slice's stay in the
    memory where they are."""
    from torch import nn  # slow, and unneeded where no job runs

    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    rows = {id(each.weight): nn.Parameter(each.weight.data[kept], requires_grad=False) for each in (embedding, head)}
    for module in (embedding, head):
        module.weight = rows[id(module.weight)]
    embedding.padding_idx, size = None, len(embedding.weight)
    embedding.num_embeddings = head.out_features = model.vocab_size = model.config.vocab_size = size
