"""Smaller vocabularies: every text has tokens, what stays is used where it was, and the model computes the same."""

import json
import unicodedata
from collections import Counter
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

import tiny
from pruning.analysis import shapes
from pruning.core.errors import InputError
from pruning.evaluation import recovery
from pruning.methods import budget, variants
from pruning.methods.compact import Pruning, parameters
from pruning.models import head, loading, vocabulary
from pruning.models.checkpoint import Checkpoint

TEMPLATE = "{% for m in messages %}{{ '<|user|>' + m.content }} zygote{% endfor %}"
TEMPLATE += "{% if tools %}{{ 'quetzal' }}{% endif %}"
ROWS = tiny.ROWS
ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)  # all planes, combining marks, no surrogates
NAMED = st.lists(st.sampled_from(["<|end|>", "<|user|>", "neuron", " the", "e\u0301", "\U0010ffff", "\u0000"]))
LICENCE = " ".join(tiny.LICENSE.read_text().split())
TEXTS = ANY | NAMED.map("".join) | st.tuples(NAMED.map("".join), ANY).map("".join)


@cache
def both(size: int, ignore_merges: bool = False, nfc: bool = False) -> tuple[Tokenizer, Tokenizer, list[int]]:
    """The whole tokenizer, one of the first lines' tokens, and what that keeps."""
    whole = tiny.merged(ignore_merges, nfc)
    kept = list(made(whole).keep(size, counts(whole, LICENCE[:2000])))
    cut = json.dumps(vocabulary.tokenizer(json.loads(whole), kept))
    return Tokenizer.from_str(whole), Tokenizer.from_str(cut), kept


def made(content: str, **config) -> vocabulary.Tokenizer:
    """Of a folder of no other files."""
    with TemporaryDirectory(prefix="tokenizer-") as folder:
        Path(folder, "tokenizer.json").write_text(content)
        Path(folder, "config.json").write_text(json.dumps({"vocab_size": ROWS, **config}))
        own = vocabulary.Tokenizer(Path(folder))
        assert own.required  # read while the folder is there
        return own


def counts(content: str, text: str) -> Counter:
    return Counter(Tokenizer.from_str(content).encode(text, add_special_tokens=False).ids)


def ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids


KINDS = pytest.mark.parametrize("kind", [(False, False), (True, False), (False, True)], ids=["plain", "words", "nfc"])


@pytest.mark.parametrize("size", [262, 300, 400, 650])
@KINDS
@settings(max_examples=300, deadline=None)
@given(text=TEXTS | st.lists(st.sampled_from(LICENCE[:2000].split(" "))).map(" ".join))
def test_every_text_is_decoded_to_itself_and_has_the_tokens_that_it_had_where_all_stay(size, kind, text):
    """The latter also in words, of which more do."""
    whole, cut, kept = both(size, *kind)
    normal = unicodedata.normalize("NFC", text) if kind[1] else text
    assert cut.decode(ids(cut, text), skip_special_tokens=False) == normal
    assert max(ids(cut, text), default=0) < len(kept)
    for word in [text, *text.split()]:
        before, after = ids(whole, word), [kept[number] for number in ids(cut, word)]
        assert after == before or not {*before} <= {*kept}


@KINDS
def test_no_token_stays_that_could_not_be_made(kind):
    """By brute force: each is what its own text becomes, if it was so before."""
    whole, cut, kept = both(300, *kind)
    decoder, tried = decoders.ByteLevel(), 0
    for new, old in enumerate(kept):
        text = decoder.decode([whole.id_to_token(old)])
        if "<|" not in text and "\ufffd" not in text and ids(whole, text) == [old]:
            assert ids(cut, text) == [new]
            tried += 1
    assert tried > 120


def by_hand(**changes) -> dict:
    """Bytes are numbers 0 to 255, in the order of their characters; then `ab`, `abc`, `bc`, `cd`, `abcd`."""
    numbers = {character: place for place, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = [["a", "b"], ["ab", "c"], ["b", "c"], ["c", "d"], ["ab", "cd"], ["a", "bc"]]
    numbers |= {"ab": 256, "abc": 257, "bc": 258, "cd": 259, "abcd": 260}
    backend = Tokenizer(models.BPE(vocab=numbers, merges=[]))
    backend.decoder = decoders.ByteLevel()
    content = json.loads(backend.to_str())
    content["model"] |= {"merges": merges, **changes}
    return content


def test_what_stays_by_hand():
    """`abc` is merged from `ab`, though `a` and `bc` make it too; `abcd` never is: `ab` + `c` comes before `cd`."""
    own = made(json.dumps(by_hand()))
    assert own.parts("abc") == ("ab", "c") and own.parts("a") is None and own.parts("abcd") is None
    assert len(own.required) == 256
    letters = own.numbers
    assert own.keep(258, {257: 1}) == {**dict.fromkeys(range(256), "byte"), 256: "part", 257: "data"}
    assert list(own.keep(258, {}))[256:] == [256, 257]
    assert list(own.keep(257, {259: 2, 256: 2}))[256:] == [256], "of equally frequent ones the lower number"
    assert own.keep(257, {257: 5, 259: 1})[259] == "data", "the more frequent one does not fit with its part"
    assert list(own.keep(259, {259: 1, 257: 2}))[256:] == [256, 257, 259]
    cut = vocabulary.tokenizer(by_hand(), [*range(256), 257, 258])
    assert cut["model"]["merges"] == [["b", "c"], ["a", "bc"]]
    assert cut["model"]["vocab"] == {**{c: n for c, n in letters.items() if n < 256}, "abc": 256, "bc": 257}


def folder(place: Path, tied: bool = True, **changes) -> Path:
    """A model with a tokenizer of its own, in a folder with all files that name tokens."""
    own = {"vocab_size": ROWS, "tie_word_embeddings": tied, "eos_token_id": [0, 699], **changes}
    base = tiny.with_merges(tiny.save(tiny.of_family("llama", **own), place / "base"), TEMPLATE)
    (base / "vocab.json").write_text("{}")
    (base / "added_tokens.json").write_text('{"<|user|>": 699}')
    own = json.loads((base / "tokenizer_config.json").read_text())
    own["added_tokens_decoder"] = {"0": {"content": "<|end|>"}, "699": {"content": "<|user|>"}}
    (base / "tokenizer_config.json").write_text(json.dumps(own))
    return base


def cut(base: Path, size: int, keeps: dict) -> tuple[Path, list[int]]:
    kept = list(vocabulary.Tokenizer(base).keep(size, counts(tiny.merged(), LICENCE[:200])))
    return tiny.written(Pruning(Checkpoint(base), keeps, tokens=kept), base.with_name("cut")), kept


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("widths", [(48, 48), (20, 31)])
def test_the_model_computes_the_same_of_the_tokens_that_stay(tmp_path, tied, widths):
    """Against the whole model in float64, without the neurons that are removed."""
    base, keeps = folder(tmp_path, tied), tiny.keeps(*widths)
    output, kept = cut(base, 400, keeps)
    small, tokenizer = loading.load(output, "float64", "cpu")
    whole = tiny.silenced(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64), keeps)
    new = torch.tensor(tokenizer(LICENCE[:200])["input_ids"])[None]
    old = torch.tensor(AutoTokenizer.from_pretrained(base)(LICENCE[:200])["input_ids"])[None]
    assert torch.tensor(kept)[new].equal(old)
    with torch.no_grad():
        assert (small(new).logits - whole(old).logits[..., kept]).abs().max() < 1e-6
    config, base_model = small.config, Checkpoint(base)
    assert config.vocab_size == 400 and config.eos_token_id == [kept.index(0), kept.index(699)]
    rows = (ROWS - 400) * 32 * (2 - tied)
    assert base_model.parameters - Checkpoint(output).parameters == rows + 3 * 32 * (96 - sum(widths))
    assert parameters(base_model, {"ffn": widths}, tokens=400) == Checkpoint(output).parameters


def test_all_files_number_tokens_alike(tmp_path):
    output, kept = cut(folder(tmp_path), 400, tiny.keeps(48, 48))
    read = {path.name: json.loads(path.read_text()) for path in output.glob("*.json")}
    end, user = kept.index(0), kept.index(699)
    assert "vocab.json" not in read and read["added_tokens.json"] == {"<|user|>": user}
    added = {"<|end|>": end, "<|user|>": user}
    assert {token["content"]: token["id"] for token in read["tokenizer.json"]["added_tokens"]} == added
    decoder = {str(number): {"content": token} for token, number in added.items()}
    assert read["tokenizer_config.json"]["added_tokens_decoder"] == decoder
    assert read["tokenizer.json"]["post_processor"]["special_tokens"]["<|end|>"]["ids"] == [end]
    assert read["generation_config.json"]["eos_token_id"] == [end, user] == read["config.json"]["eos_token_id"]
    tokenizer = AutoTokenizer.from_pretrained(output)
    assert len(tokenizer) == 400 and sorted(tokenizer.get_vocab().values()) == list(range(400))
    assert tokenizer("a")["input_ids"][0] == end == tokenizer.eos_token_id == tokenizer.pad_token_id


def test_what_a_chat_template_writes_stays(tmp_path):
    """Also what it writes only now and then; and its tokens are those of the whole tokenizer."""
    base = folder(tmp_path)
    own = vocabulary.Tokenizer(base)
    for text in (" zygote", "quetzal", "<|user|>"):
        assert {*ids(Tokenizer.from_str(tiny.merged()), text)} <= own.required.keys()
    output, kept = cut(base, len(own.required), tiny.keeps(48, 48))
    chat = [{"role": "user", "content": ""}]
    both = [AutoTokenizer.from_pretrained(each) for each in (base, output)]
    before, after = (own.apply_chat_template(chat)["input_ids"] for own in both)
    assert [kept[number] for number in after] == before


def test_a_token_that_the_settings_alone_call_added_stays(tmp_path):
    base = folder(tmp_path)
    file, last = base / "tokenizer_config.json", max(vocabulary.Tokenizer(base).texts) - 1  # the very last is added
    settings, text = json.loads(file.read_text()), vocabulary.Tokenizer(base).texts[last]
    settings["added_tokens_decoder"] = {**settings["added_tokens_decoder"], str(last): {"content": text}}
    settings["added_tokens_decoder"]["9999"] = {"content": "without a row"}
    file.write_text(json.dumps(settings))
    (base / "added_tokens.json").write_text(json.dumps({text: last}))
    assert vocabulary.Tokenizer(base).required[last] == "special"
    output, kept = cut(base, 400, tiny.keeps(48, 48))
    decoder = json.loads((output / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    assert decoder[str(kept.index(last))] == {"content": text} and "9999" not in decoder
    assert json.loads((output / "added_tokens.json").read_text()) == {text: kept.index(last)}


BUDGETS = {257: "257: 258 tokens of ", "1%": "1%: 258 tokens of ", 700: "has 700 tokens: give fewer", 5000: "5000: "}


@pytest.mark.parametrize("asked", BUDGETS)
def test_budgets_that_cannot_be(asked):
    with pytest.raises(InputError, match=f"vocabulary: .*{BUDGETS[asked]}"):
        made(tiny.merged()).keep(asked, {})


@pytest.mark.parametrize("settings", [{"truncation": {"max_length": 3}}, {"padding": {"pad_id": 0}}])
def test_texts_are_read_whole_whatever_the_file_says_of_batches(settings):
    whole = made(tiny.merged())
    defaults = {"truncation": {"direction": "Right", "strategy": "LongestFirst", "stride": 0}}
    defaults |= {
        "padding": {"strategy": "BatchLongest", "direction": "Right", "pad_type_id": 0, "pad_token": "<|end|>"}
    }
    [(key, value)] = settings.items()
    own = json.loads(tiny.merged()) | {key: {**defaults[key], "pad_to_multiple_of": None, **value}}
    texts = ["a long text of many words", "b"]
    assert made(json.dumps(own)).encoded(texts) == whole.encoded(texts)


def test_a_row_without_a_token_is_not_required():
    """As a pad token among Qwen's spare rows."""
    assert made(tiny.merged(), pad_token_id=710).required == made(tiny.merged()).required


def test_a_share_is_of_the_embeddings_rows():
    assert made(tiny.merged()).budget("50%") == made(tiny.merged()).budget(360) == 360


@pytest.mark.parametrize(
    "content, said",
    [
        (by_hand(type="Unigram"), "its model is Unigram: only the vocabulary of a byte-level BPE can be pruned"),
        (by_hand(byte_fallback=True), "its model is BPE with `byte_fallback` (SentencePiece)"),
        (by_hand(end_of_word_suffix="</w>"), "its model is BPE with `end_of_word_suffix`"),
        ({**by_hand(), "decoder": {"type": "Metaspace"}}, "its model is BPE, and its decoder Metaspace"),
        ({**by_hand(), "added_tokens": [{"content": "<image>", "id": ROWS}]}, "token '<image>' has no embedding"),
    ],
)
def test_other_tokenizers_are_refused_by_name(content, said):
    with pytest.raises(InputError) as error:
        made(json.dumps(content))
    assert said in str(error.value)


def test_a_broken_chat_template_is_refused(tmp_path):
    base = folder(tmp_path)
    (base / "chat_template.jinja").write_text("{% if 'a %}")
    with pytest.raises(InputError, match="its chat template cannot be read"):
        vocabulary.Tokenizer(base).keep(400, {})


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["parameters", "bytes"])
def test_budgets_count_what_stays(tmp_path, tied, kind):
    """Also where the embedding is stored in another type than the FFNs."""
    model = tiny.of_family("llama", vocab_size=ROWS, tie_word_embeddings=tied).to(torch.bfloat16)
    model.model.embed_tokens.weight.data = model.model.embed_tokens.weight.data.float()
    base = tiny.with_merges(tiny.save(model, tmp_path / "base"))
    output, _ = cut(base, 400, tiny.keeps(20, 20))
    sizes = budget.Sizes(Checkpoint(base), kind, tokens=400)
    tensors = [tensor for file in output.glob("*.safetensors") for tensor in load_file(file).values()]
    held = {"parameters": sum(own.numel() for own in tensors), "bytes": sum(own.nbytes for own in tensors)}
    assert sizes.cost({"ffn": (20, 20)}).value == held[kind] < budget.Sizes(Checkpoint(base), kind).dense


def test_a_smaller_vocabulary_may_be_enough():
    for kind in ("bytes", "decode_ms"):
        assert budget.least(lambda sparsity: True, kind, 0) == 0 and budget.least(lambda sparsity: True, kind) == 1
        assert budget.least(lambda sparsity: sparsity >= 7, kind, 0) == 7


@pytest.mark.parametrize("tied", [True, False])
def test_what_is_timed_has_as_many_tokens(tmp_path, tied):
    """In the dense model's memory; and two models that differ in them alone are both timed."""
    base = folder(tmp_path, tied)
    output, _ = cut(base, 400, tiny.keeps(48, 48))
    dense = loading.load(base, "float32", "cpu")[0]
    small = shapes.narrowed(dense, {"ffn": (48, 48)}, tokens=400)
    assert [own.num_parameters() for own in (small, dense)] == [Checkpoint(own).parameters for own in (output, base)]
    assert {own.data_ptr() for own in small.parameters()} <= {own.data_ptr() for own in dense.parameters()}
    assert small(torch.tensor([[399, 1]])).logits.shape == (1, 2, 400) and small.config.vocab_size == 400
    outlines = {variants.Parts(each, each).outline() for each in (base, output)}
    assert len(outlines) == 2 and len({units for units, *_ in outlines}) == 1


def test_what_a_smaller_model_is_distilled_from_chooses_among_its_tokens(tmp_path):
    base = folder(tmp_path, False)
    output, kept = cut(base, 400, tiny.keeps(48, 48))
    assert vocabulary.kept_of(base, output) == kept
    whole, teacher = (loading.load(base, "float64", "cpu")[0] for _ in range(2))
    vocabulary.shrink(teacher, kept)
    new = torch.tensor([[5, 300, 399, 0]])
    # One product of as many columns: of all of them some processors differ in the last bit.
    hidden, rows = head.hidden_states(whole, torch.tensor(kept)[new]), whole.lm_head.weight[kept]
    assert torch.equal(teacher(new).logits, torch.nn.functional.linear(hidden, rows))
    sequences, given = [(new[0].tolist(), [True] * 4)], {"dtype": "float32", "batch_size": 1}
    parameters, hidden = recovery.taught(base, output, sequences, {0}, given)
    wanted = head.hidden_states(teacher, new)[0].float()
    torch.testing.assert_close(hidden[0], wanted, rtol=1e-4, atol=1e-5)
    assert {len(own) for own in parameters.values()} == {400}
    with pytest.raises(InputError, match="has other tokens than"):
        vocabulary.kept_of(output, base)


def test_settings_that_name_tokens_otherwise_are_refused():
    with pytest.raises(InputError, match="suppress_tokens names tokens by their numbers: remove it"):
        made(tiny.merged(), suppress_tokens=[3])
