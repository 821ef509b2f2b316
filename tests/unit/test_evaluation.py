"""Evaluation by our class: it answers as lm-eval's does, whatever memory there is; perplexity is a hand loop's."""

import hashlib
import math
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import evaluate as evaluate_stage
import hidden_states
import pandas as pd
import pytest
import torch
from lab import Lab, assert_same, speak
from lm_eval.api.instance import Instance

import tiny
from pruning.core import artifacts, layer_files
from pruning.core.artifacts import file_hash, key_of
from pruning.core.errors import InputError
from pruning.evaluation import dense, generation
from pruning.evaluation.dense import Dense
from pruning.evaluation.kinds.perplexity import pieces, scored, windows
from pruning.models import head

KWARGS = {"max_gen_toks": 12, "do_sample": False}
STOPS = ["Q", "xx", "\x08", "AAAA"]  # what the random model says, so that some answers stop and some do not


def generations(texts=("one", "twenty two", "3", "forty four four", "5 5"), until=STOPS) -> list[Instance]:
    return [Instance("generate_until", {}, (text, {**KWARGS, "until": until}), i) for i, text in enumerate(texts)]


def options() -> list[Instance]:
    pairs = [("What is it?", " this"), ("What is it?", " that one"), ("", "x"), ("a b", " c"), ("What is it?", " z")]
    return [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]


ASK = {"generate_until": generations, "loglikelihood": options}


@pytest.fixture
def lab(tmp_path) -> Lab:
    return Lab(tmp_path)


def ask(lm, kind: str, requests=None) -> list:
    return getattr(lm, kind)(ASK[kind]() if requests is None else requests, disable_tqdm=True)


GENERATION = {  # of a model: what the answers would be without it is another thing for most prompts
    "two ends": {"eos_token_id": [199, 245]},
    "an end that is not the tokenizer's": {"eos_token_id": 199},
    "a penalty": {"repetition_penalty": 1.3},
    "a penalty, sampling that is not asked for": {"repetition_penalty": 1.3, "do_sample": True, "temperature": 0.6},
    "nothing twice": {"no_repeat_ngram_size": 2, "bad_words_ids": [[245], [33, 190]]},
    "a least length": {"eos_token_id": [199, 245], "min_new_tokens": 9},
}
TWELVE = [" ".join("abcdefghijkl"[: n + 1]) for n in range(12)]


@cache
def generated_by_lm_eval(own: str | None) -> list[str]:
    lab = Lab(Path())
    lab.model.generation_config.update(**GENERATION.get(own, {}))
    return ask(lab.plain(1), "generate_until", generations(TWELVE, []))


@pytest.mark.parametrize("batch_size", [1, 5])
@pytest.mark.parametrize("own", GENERATION)
def test_a_models_own_generation_settings_are_obeyed_as_lm_eval_does(lab, own, batch_size):
    plain, expected = generated_by_lm_eval(None), generated_by_lm_eval(own)
    assert sum(a != b for a, b in zip(expected, plain, strict=True)) >= 6
    lab.model.generation_config.update(**GENERATION[own])
    assert ask(lab.cached(batch_size), "generate_until", generations(TWELVE, [])) == expected


# running out of memory


def limit_memory(lab: Lab, rows: int, error: Exception):
    """The model raises on a forward pass of more than `rows` rows."""

    def refuse(_, args, kwargs):
        if len(args[0] if args else kwargs["input_ids"]) > rows:
            raise error

    lab.model.register_forward_pre_hook(refuse, with_kwargs=True)


def test_what_does_not_fit_is_refused_not_cut(lab):
    """lm-eval would cut the beginning off."""

    def options(length: int) -> list[Instance]:
        return [Instance("loglikelihood", {}, ("x" * length, " ab"), 0)]

    ask(lab.cached(), "generate_until", generations(("x" * (512 - 12), "short")))
    with pytest.raises(InputError, match=r"501 tokens and an answer of up to 12 do not fit .* 512 tokens: lower the"):
        ask(lab.cached(), "generate_until", generations(("x" * (512 - 11), "short")))
    for name in ("max_new_tokens", "max_tokens", "max_completion_tokens"):  # lm-eval's others for an answer's length
        request = Instance("generate_until", {}, ("x" * (512 - 11), {"until": [], name: 12}), 0)
        with pytest.raises(InputError, match=r"501 tokens and an answer of up to 12 do not fit"):
            ask(lab.cached(), "generate_until", [request])
    assert_same(ask(lab.cached(), "loglikelihood", options(510)), ask(lab.plain(), "loglikelihood", options(510)))
    with pytest.raises(InputError, match=r"511 tokens and an answer of up to 2 do not fit .* 512 tokens"):
        ask(lab.cached(), "loglikelihood", options(511))


def test_a_special_token_that_is_a_stop_string_ends_an_answer_whatever_the_batch(lab):
    """lm-eval's own text goes on behind it, unseen in the decoded text, until the batch's slowest row has ended: with a
    batch of one it ends there, and so do ours."""
    stop = max("abcdefghijklmnopqrstuvwxyz0123456789", key="".join(ask(lab.plain(), "generate_until")).count)
    lab.tokenizer.add_special_tokens({"additional_special_tokens": [stop]})
    requests = generations(until=[stop])
    alone, together = (ask(lab.plain(size), "generate_until", requests) for size in (1, 5))
    assert ask(lab.cached(batch_size=5), "generate_until", requests) == alone
    assert together != alone


def test_shared_beginnings_are_computed_once(lab):
    examples = "Three worked examples. " * 3
    requests = generations(tuple(examples + text for text in ("one", "twenty two", "3")))
    expected = ask(lab.plain(), "generate_until", requests)
    lab.calls.clear()
    assert ask(lab.cached(batch_size=3), "generate_until", requests) == expected
    assert lab.calls[:2] == [(1, len(examples)), (3, len("twenty two"))]


def test_options_of_one_question_share_its_pass_and_their_beginning(lab):
    question = "What is the answer to all of this? "
    options = ("it is forty", "it is 42", "it is no", "it is")
    requests = [Instance("loglikelihood", {}, (question, text), i) for i, text in enumerate(options)]
    expected = ask(lab.plain(), "loglikelihood", requests)
    lab.calls.clear()
    assert_same(ask(lab.cached(batch_size=4), "loglikelihood", requests), expected)
    # lm-eval gives the question's space to the option; of the shortest option a token is left for the second pass
    assert lab.calls == [(1, len(question + "it i")), (4, len("s forty") - 1)]


def test_lengths_belong_to_their_answers_after_memory_ran_out(lab, monkeypatch, tmp_path):
    """Memory runs out half way through a batch's bookkeeping, with one row's length noted."""
    expected = lab.cached(batch_size=5, path=tmp_path / "calm.jsonl")
    ask(expected, "generate_until")
    lm, decoded = lab.cached(batch_size=5), []
    decode = lm.tok_decode

    def failing_at_the_third(*args, **kwargs):
        decoded.append(args)
        if len(decoded) == 3:
            raise MemoryError
        return decode(*args, **kwargs)

    monkeypatch.setattr(lm.lm, "tok_decode", failing_at_the_third)
    ask(lm, "generate_until")
    for each in (expected, lm):  # nothing is left over for what is asked next
        ask(each, "generate_until", generations(("six 6", "and seven")))
    assert lm.answers == expected.answers
    assert len({record["tokens"] for record in lm.answers.values()}) > 1


@pytest.mark.parametrize("kind", ASK)
def test_out_of_memory_at_a_batch_of_one_names_the_sizes_tried(lab, kind):
    limit_memory(lab, 0, torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(InputError, match=r"out of memory, batch sizes tried: \[5, 2, 1\]"):
        ask(lab.cached(batch_size=5), kind)


def test_other_errors_are_not_taken_for_memory(lab):
    limit_memory(lab, 0, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        ask(lab.cached(), "generate_until")


# lengths and finish reasons


def test_generated_tokens_and_finish_reason_by_hand(lab, monkeypatch):
    """Continuations written by hand; stops are `e`, `Q:` and the end token, which also pads."""
    end = lab.tokenizer.eos_token
    written = {
        "stops at a word": ("abcdef", 5, "stop", "abcd"),
        "stops at two tokens": ("12345Q:x", 7, "stop", "12345"),
        "takes the first stop": ("abQ:xe", 4, "stop", "ab"),
        "ends by itself": (f"ab{end}", 3, "stop", "ab"),
        "stops at once": ("e", 1, "stop", ""),
        "never stops": ("123456789012", 12, "length", "123456789012"),
    }
    monkeypatch.setattr(generation, "greedy", speak({prompt: text for prompt, (text, *_) in written.items()}, lab))
    lm = lab.cached(batch_size=4)
    requests = generations(tuple(written), until=["e", "Q:"])
    assert ask(lm, "generate_until", requests) == [text for *_, text in written.values()]
    for request, (_, tokens, finish, _) in zip(requests, written.values(), strict=True):
        record = lm.answers[key_of("generate_until", request.args)]
        assert (record["tokens"], record["finish"]) == (tokens, finish), request.args[0]


def test_an_answer_caught_in_a_loop_counts_to_its_limit(lab):
    """What is generated of it is what lm-eval's own class generates first."""
    asked = [Instance("generate_until", {}, (text, {"max_gen_toks": 300, "until": []}), 0) for text in TWELVE]
    lab.model.generation_config.eos_token_id = 0
    lm, expected = lab.cached(len(asked)), ask(lab.plain(len(asked)), "generate_until", asked)
    found = ask(lm, "generate_until", asked)
    records = [lm.answers[key_of("generate_until", request.args)] for request in asked]
    assert {record["finish"] for record in records} >= {"loop", "length"}
    for ours, theirs, record in zip(found, expected, records, strict=True):
        assert theirs.startswith(ours.rstrip("\ufffd")) and (ours == theirs) == (record["finish"] != "loop")
        assert (record["tokens"] == 300) == (record["finish"] != "stop")


# perplexity


@pytest.mark.parametrize(
    ("text", "size", "limit", "expected"),
    [
        *((range(10), 4, limit, [[0, 1, 2, 3], [4, 5, 6, 7]]) for limit in (None, 8, 99)),
        (range(10), 4, 7, [[0, 1, 2, 3]]),
        ("aé €bc", 4, None, ["aé ", "€b"]),
        ("aé €bc", 4, 7, ["aé "]),
        ("aé €bc", 5, None, ["aé ", "€bc"]),
        (range(3), 4, None, "3 tokens are less than one window of seqlen 4"),
        ("abc", 4, None, "3 bytes are less than one piece of seqlen 4"),
    ],
)
def test_windows_and_pieces_are_whole_and_the_rest_is_dropped(text, size, limit, expected):
    """Of tokens, and of a text's bytes; pieces end between characters."""
    cut = pieces if isinstance(text, str) else lambda *given: windows(*given).tolist()
    if isinstance(expected, str):
        with pytest.raises(InputError, match=expected):
            cut(text, size, limit)
    else:
        assert cut(text, size, limit) == expected


def surprise(model, ids: list[int]) -> float:
    """Summed -log p of each token but the first, one at a time, in float64."""
    total = 0.0
    for t in range(1, len(ids)):
        logits = model(torch.tensor([ids[:t]])).logits[0, -1].double()
        total -= (logits[ids[t]] - logits.exp().sum().log()).item()
    return total


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_negative_log_likelihoods_are_a_hand_loop(batch_size):
    torch.manual_seed(0)
    model, cut = tiny.llama(), torch.randint(1, 257, (5, 9))
    found = [nll for nll, _ in scored(model, cut, batch_size)]
    assert found == pytest.approx([surprise(model, window.tolist()) for window in cut], rel=1e-5)
    assert max(found) > 1.1 * min(found)


def kept_states(folder, model, cut, batch_size) -> Dense:
    """What is kept of a dense model, on disk."""
    manifest, states = folder / "states.json", dense.states(model, cut, batch_size)
    layer_files.write(manifest, dense.KIND, {}, states, {"model": "hash"})
    return Dense(manifest)


def test_divergences_are_torchs_own_over_the_whole_vocabulary(tmp_path, monkeypatch):
    """KL(dense || pruned) of every next token, as torch.nn.functional.kl_div has it, in float64."""
    torch.manual_seed(0)
    model, other, cut = tiny.llama(), tiny.llama(seed=1), torch.randint(1, 257, (5, 9))
    ours, theirs = (each(cut).logits[:, :-1].double().log_softmax(-1) for each in (model, other))
    wanted = torch.nn.functional.kl_div(ours, theirs, reduction="none", log_target=True).sum((1, 2))
    monkeypatch.setattr(head, "LOGITS", 3 * 257)  # in pieces
    for batch_size in (1, 2, 5):
        found = list(scored(model, cut, batch_size, kept_states(tmp_path, other, cut, batch_size)))
        assert [kl for _, kl in found] == pytest.approx(wanted.tolist(), rel=1e-5) and wanted.min() > 0.1
        assert [nll for nll, _ in found] == [nll for nll, _ in scored(model, cut, batch_size)]
    own, alone = kept_states(tmp_path, model, cut, 2), list(scored(model, cut, 2))
    assert all(abs(kl) < 1e-5 for _, kl in scored(model, cut, 2, own))
    monkeypatch.setattr(head, "hidden_states", None)  # the dense model's layers do not run again
    assert list(scored(model, cut, 2, own, same=True)) == alone


def windowed(folder, model, texts, compared=None, template="", **task) -> SimpleNamespace:
    """The stage's results for a model on texts: the whole one, and its samples. compared: folder of a dense model;
    template: the chat format of both."""
    own = {"kind": "perplexity", "dtype": "float32", "text": "{text}", "joiner": "", "tokens": None, "batch_size": 2}
    artifacts.write_parquet(folder / "data.parquet", pd.DataFrame({"text": texts}), "dataset", {})
    place = tiny.save(model, folder / "model")
    if template:
        (place / "chat_template.jinja").write_text(template)
    variant = {"model": place, "manifest": tiny.record(place)}
    source, states = folder / "data.parquet", folder / "states.json"
    if compared:
        hidden_states.hidden_states(own | task, compared, source, states)
    of_dense = [f"wiki={states}"] if compared else None
    evaluate_stage.evaluate({"tasks": {"wiki": own | task}}, variant, [f"wiki={source}"], folder, states=of_dense)
    result = artifacts.read_json(folder / "wiki.json", "evaluation")
    return SimpleNamespace(result=result, frame=artifacts.read_parquet(folder / "wiki.samples.parquet", "samples"))


def test_the_perplexity_stage_joins_records_and_weighs_tokens(tmp_path):
    model = tiny.qwen2()
    found = windowed(tmp_path, model, ["abc", "defgh", "ij klmnopqrs"], text="<{text}>", joiner="--", seqlen=8)
    ids = tiny.tokenizer()("<abc>--<defgh>--<ij klmnopqrs>")["input_ids"]
    nll = [surprise(model, ids[start : start + 8]) for start in (0, 8, 16)]
    assert found.frame["value"].tolist() == pytest.approx(nll, rel=1e-5)
    assert found.frame["weight"].tolist() == [7, 7, 7]
    assert found.frame["item_hash"].nunique() == 3
    assert found.result["perplexity"] == pytest.approx(math.exp(sum(nll) / 21), rel=1e-5)
    assert [found.result[key] for key in ("tokens", "windows", "seqlen")] == [21, 3, 8]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_bits_per_byte_are_a_hand_loop_over_pieces_of_text(tmp_path, batch_size):
    """Each piece after the end token, and no character in two of them."""
    model, tokenizer, wanted = tiny.qwen2(), tiny.tokenizer(), ["<abcd", "éfgh>", "--<ij ", "€klm"]
    task = {"text": "<{text}>", "joiner": "--", "per": "byte", "seqlen": 6, "batch_size": batch_size}
    found = windowed(tmp_path, model, ["abcdéfgh", "ij €klmno"], **task)
    bits = [surprise(model, [0, *tokenizer(piece)["input_ids"]]) / math.log(2) for piece in wanted]
    frame = found.frame
    assert frame["value"].tolist() == pytest.approx(bits, rel=1e-5) and set(frame["metric"]) == {"bits_per_byte"}
    assert frame["weight"].tolist() == [len(piece.encode()) for piece in wanted] == [5, 6, 6, 6]
    assert frame["item_hash"].tolist() == [hashlib.sha256(piece.encode()).hexdigest()[:16] for piece in wanted]
    assert found.result["bits_per_byte"] == pytest.approx(sum(bits) / 23, rel=1e-5)


RECORDS = ["abcdefghijklmno", "", "éf", "ghi", "jk"]
AFTER_PROMPT = {"prompt": "<é{text}>", "text": "{text}!", "seqlen": 14, "batch_size": 2}
"""The first record is too long; the next three have 30 tokens, or 27 bytes, and the last 10, or 9."""


IN_CHAT = (
    "{% for each in messages %}{% if each.role == 'user' %}<é{{ each.content }}>{% else %}{{ each.content }}<|end|>"
)
IN_CHAT += "{% endif %}{% endfor %}"


@pytest.mark.parametrize("by_byte", [False, True])
@pytest.mark.parametrize("template", ["", IN_CHAT, "{% for each in messages %}[{{ each.content }}]{% endfor %}"])
def test_a_record_is_scored_after_its_prompt_in_a_chat_format_with_its_end_and_by_itself(tmp_path, by_byte, template):
    model, tokenizer = tiny.qwen2(), tiny.tokenizer()
    limit = {"per": "byte", "tokens": 28} if by_byte else {"tokens": 34}
    found = windowed(tmp_path, model, RECORDS, **AFTER_PROMPT, **limit, template=template)
    wanted, weights = [], []
    for record in RECORDS[1:4]:
        prompt = tokenizer(f"<é{record}>")["input_ids"]
        said = [*tokenizer(f"{record}!")["input_ids"], *([0] if template == IN_CHAT else [])]
        wanted.append(surprise(model, prompt + said) - surprise(model, prompt))
        weights.append(len(f"{record}!".encode()) if by_byte else len(said))
    frame, unit = found.frame, math.log(2) if by_byte else 1
    assert frame["value"].tolist() == pytest.approx([each / unit for each in wanted], rel=1e-5)
    assert frame["weight"].tolist() == weights and frame["item_hash"].nunique() == 3
    mean = sum(wanted) / sum(weights)
    metric, value = ("bits_per_byte", mean / math.log(2)) if by_byte else ("perplexity", math.exp(mean))
    assert found.result[metric] == pytest.approx(value, rel=1e-5) and found.result["windows"] == 3


def test_divergences_of_records_are_of_what_follows_their_prompts(tmp_path):
    model, other, tokenizer = tiny.qwen2(), tiny.qwen2(seed=1), tiny.tokenizer()
    tiny.record(tiny.save(other, tmp_path / "dense"))
    task = {**AFTER_PROMPT, "tokens": None, "divergence": True}
    found = windowed(tmp_path, model, RECORDS, tmp_path / "dense", **task).frame.set_index("metric")
    wanted = []
    for record in RECORDS[1:]:
        prompt = tokenizer(f"<é{record}>")["input_ids"]
        ids = torch.tensor([[*prompt, *tokenizer(f"{record}!")["input_ids"]]])
        ours, theirs = (each(ids).logits[0, len(prompt) - 1 : -1].double().log_softmax(-1) for each in (model, other))
        wanted.append((theirs.exp() * (theirs - ours)).sum().item())
    assert found.loc["kl", "value"].tolist() == pytest.approx(wanted, rel=1e-5)


def test_a_record_without_text_has_no_bits_per_byte(tmp_path):
    task = {**AFTER_PROMPT, "text": "{text}", "per": "byte"}
    assert windowed(tmp_path, tiny.qwen2(), RECORDS, **task).frame["weight"].tolist() == [3, 3, 2]
    # Of 18 bytes a second record of ten is one too many, though a third of eight would fit.
    assert windowed(tmp_path, tiny.qwen2(), RECORDS, **task, tokens=18).frame["weight"].tolist() == [3]


def test_records_that_are_all_too_long_are_refused(tmp_path):
    with pytest.raises(InputError, match="perplexity: no record has at most 3 tokens: raise `seqlen`"):
        windowed(tmp_path, tiny.qwen2(), RECORDS, **{**AFTER_PROMPT, "seqlen": 3})


@pytest.mark.parametrize("pruned", [True, False])
def test_the_stage_compares_with_the_dense_model_where_it_is_asked_to(tmp_path, pruned):
    """The dense model's own divergence is 0, and a task that does not ask has none."""
    model, other, texts = tiny.qwen2(), tiny.qwen2(seed=1), ["abcdefgh", "ij klmno"]
    place = tiny.save(other if pruned else model, tmp_path / "dense")
    tiny.record(place)
    plain = windowed(tmp_path, model, texts, seqlen=8).frame
    asked = windowed(tmp_path, model, texts, place, seqlen=8, divergence=True)
    found = asked.frame.set_index("metric")
    assert found.loc["perplexity", "value"].tolist() == plain["value"].tolist()
    assert set(plain["metric"]) == {"perplexity"}
    cut = windows(tiny.tokenizer()("abcdefghij klmno")["input_ids"], 8, None)
    states = Dense(tmp_path / "states.json")
    assert states.is_model([file_hash(tmp_path / "model/manifest.json"), None]) is not pruned
    wanted = [kl for _, kl in scored(model, cut, 2, states)] if pruned else [0, 0]
    assert found.loc["kl", "value"].tolist() == wanted and found.loc["kl", "weight"].tolist() == [7, 7]
    assert asked.result["kl"] == pytest.approx(sum(wanted) / 14)


def test_a_window_longer_than_the_context_is_refused(tmp_path):
    with pytest.raises(InputError, match="seqlen: 17 is longer than the model's context of 16 tokens"):
        windowed(tmp_path, tiny.qwen2(max_position_embeddings=16), ["a" * 99], seqlen=17)
