"""Evaluation: lm-eval's answers, remembered; its prompts, rendered from our data; perplexity by a hand loop."""

import math
import os
from pathlib import Path
from types import SimpleNamespace

import evaluate as evaluate_stage
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from lm_eval.api.instance import Instance
from lm_eval.filters import build_filter_ensemble
from lm_eval.models.huggingface import HFLM

import tiny
from pruning.config.default import DEFAULT
from pruning.config.tasks import LmEvalTask
from pruning.core import artifacts
from pruning.core.errors import InputError
from pruning.data import adapters
from pruning.data.datasets import adapt
from pruning.evaluation import generation, harness, kinds, tasks
from pruning.evaluation.answers import AnswerFile, RememberedLM
from pruning.evaluation.backends.hf import HuggingFaceLM
from pruning.evaluation.generation import Generated
from pruning.evaluation.kinds import lm_eval as of_lm_eval
from pruning.evaluation.perplexity import negative_log_likelihoods, windows
from pruning.evaluation.samples import outcomes, prediction

TASKS = Path(__file__).parents[2] / "config/tasks"
KWARGS = {"max_gen_toks": 12, "do_sample": False}
STOPS = ["Q", "xx", "\x08", "AAAA"]  # what the random model says, so that some answers stop and some do not


def generations(texts=("one", "twenty two", "3", "forty four four", "5 5"), until=STOPS) -> list[Instance]:
    return [Instance("generate_until", {}, (text, {**KWARGS, "until": until}), i) for i, text in enumerate(texts)]


def options() -> list[Instance]:
    pairs = [("What is it?", " this"), ("What is it?", " that one"), ("", "x"), ("a b", " c"), ("What is it?", " z")]
    return [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]


ASK = {"generate_until": generations, "loglikelihood": options}


class Lab:
    """A tiny model behind both classes, and a count of its forward passes."""

    def __init__(self, tmp_path: Path):
        self.model, self.tokenizer, self.path = tiny.qwen2(), tiny.tokenizer(), tmp_path / "cache.jsonl"
        self.tokenizer.padding_side = "left"
        self.calls: list[int] = []  # rows of each forward pass
        self.model.register_forward_pre_hook(self.count, with_kwargs=True)

    def count(self, _, args, kwargs) -> None:
        self.calls.append(len(args[0] if args else kwargs["input_ids"]))

    def cached(self, batch_size: int = 2, path: Path | None = None) -> RememberedLM:
        return RememberedLM(HuggingFaceLM(self.model, self.tokenizer, batch_size), AnswerFile(path or self.path))

    def plain(self, batch_size: int = 2) -> HFLM:
        return HFLM(pretrained=self.model, tokenizer=self.tokenizer, batch_size=batch_size, backend="causal")


@pytest.fixture
def lab(tmp_path) -> Lab:
    return Lab(tmp_path)


def ask(lm, kind: str, requests=None) -> list:
    return getattr(lm, kind)(ASK[kind]() if requests is None else requests, disable_tqdm=True)


def speak(texts: dict[str, str], lab: Lab):
    """In place of generation.greedy: says what is written for the prompt that holds the key, token by token."""

    def greedy(model, prompts, limit, ended, **_):
        made = []
        for row, prompt in enumerate(prompts):
            asked = lab.tokenizer.decode(prompt, skip_special_tokens=True)
            (text,) = (text for key, text in texts.items() if key in asked)
            tokens, finish = [], "length"
            for token in lab.tokenizer(text)["input_ids"][:limit]:
                tokens.append(token)
                if ended(row, tokens):
                    finish = "stop"
                    break
            made.append(Generated(tokens, finish))
        return made

    return greedy


def assert_same(found: list, expected: list):
    """Texts, or log-likelihoods up to the rounding that another batch makes."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one == (other if isinstance(other, str) else pytest.approx(other, rel=1e-5))


# the cache in front of lm-eval's model


@pytest.mark.parametrize("kind", ASK)
def test_answers_are_those_of_lm_evals_own_class(lab, kind):
    expected = ask(lab.plain(), kind)
    assert_same(ask(lab.cached(), kind), expected)
    assert len({str(answer) for answer in expected}) > 3  # the answers differ, so that their order shows


GENERATION = {  # of a model: what the answers would be without it is another thing for most prompts
    "two ends": {"eos_token_id": [199, 245]},
    "an end that is not the tokenizer's": {"eos_token_id": 199},
    "a penalty": {"repetition_penalty": 1.3},
    "a penalty, sampling that is not asked for": {"repetition_penalty": 1.3, "do_sample": True, "temperature": 0.6},
    "nothing twice": {"no_repeat_ngram_size": 2, "bad_words_ids": [[245], [33, 190]]},
    "a least length": {"eos_token_id": [199, 245], "min_new_tokens": 9},
}
TWELVE = [" ".join("abcdefghijkl"[: n + 1]) for n in range(12)]


@pytest.mark.parametrize("batch_size", [1, 5])
@pytest.mark.parametrize("own", GENERATION)
def test_a_models_own_generation_settings_are_obeyed_as_lm_eval_does(lab, own, batch_size):
    plain = ask(lab.plain(), "generate_until", generations(TWELVE, []))
    lab.model.generation_config.update(**GENERATION[own])
    expected = ask(lab.plain(1), "generate_until", generations(TWELVE, []))
    assert sum(a != b for a, b in zip(expected, plain, strict=True)) >= 6
    assert ask(lab.cached(batch_size), "generate_until", generations(TWELVE, [])) == expected


@pytest.mark.parametrize("kind", ASK)
def test_a_second_run_computes_nothing(lab, kind):
    first = ask(lab.cached(), kind)
    lab.calls.clear()
    again = ask(lab.cached(), kind)
    assert lab.calls == []
    assert again == first
    assert all(isinstance(answer, str if kind == "generate_until" else tuple) for answer in again)


@pytest.mark.parametrize("kind", ASK)
def test_a_killed_run_goes_on_where_it_stopped(lab, kind):
    lm = lab.cached()
    expected = ask(lm, kind)
    lines = lab.path.read_bytes().splitlines(keepends=True)
    lab.path.write_bytes(b"".join(lines[:3]) + lines[3][:20])
    lab.calls.clear()
    seen = []
    lm = lab.cached()
    lm.answers.add = lambda key, record, add=lm.answers.add: (seen.append(key), add(key, record))
    assert_same(ask(lm, kind), expected)
    assert len(seen) == 2
    assert lab.calls


@pytest.mark.parametrize("kind", ASK)
def test_another_cache_serves_nothing(lab, kind, tmp_path):
    ask(lab.cached(), kind)
    lab.calls.clear()
    ask(lab.cached(path=tmp_path / "other.jsonl"), kind)
    assert lab.calls


def test_other_arguments_are_other_requests(lab):
    ask(lab.cached(), "generate_until")
    lab.calls.clear()
    shorter = [Instance("generate_until", {}, ("one", {"until": STOPS, "max_gen_toks": 3, "do_sample": False}), 0)]
    (answer,) = ask(lab.cached(), "generate_until", shorter)
    assert lab.calls
    assert len(answer) <= 3


def test_equal_requests_are_answered_each(lab):
    requests = generations(("same", "same", "other", "same"))
    assert ask(lab.cached(), "generate_until", requests) == ask(lab.plain(), "generate_until", requests)


def test_an_answer_that_is_not_recorded_is_an_error_and_not_asked_for_again_and_again(lab, monkeypatch):
    """Should a later lm-eval tell its cache hook of other arguments than it was given."""
    monkeypatch.setattr(HFLM, "generate_until", lambda self, requests, disable_tqdm=False: [""] * len(requests))
    with pytest.raises(KeyError):
        ask(lab.cached(), "generate_until")


# running out of memory


def limit_memory(lab: Lab, rows: int, error: Exception):
    """The model raises on a forward pass of more than `rows` rows."""

    def refuse(_, args, kwargs):
        if len(args[0] if args else kwargs["input_ids"]) > rows:
            raise error

    lab.model.register_forward_pre_hook(refuse, with_kwargs=True)


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory"),
    MemoryError(),
    RuntimeError("DefaultCPUAllocator: can't allocate memory"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("kind", ASK)
def test_out_of_memory_halves_the_batch_and_finishes(lab, kind, error):
    expected = ask(lab.plain(), kind)
    limit_memory(lab, 1, error)
    lm = lab.cached(batch_size=5)
    assert_same(ask(lm, kind), expected)
    assert lm.batch_size_per_gpu == 1


def test_answers_given_before_memory_ran_out_are_kept(lab, monkeypatch):
    expected = ask(lab.plain(), "generate_until")
    lm, batches = lab.cached(batch_size=2), []
    greedy = generation.greedy

    def failing_at_the_second(model, prompts, *args, **kwargs):
        batches.append(len(prompts))
        if len(batches) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return greedy(model, prompts, *args, **kwargs)

    monkeypatch.setattr(generation, "greedy", failing_at_the_second)
    assert ask(lm, "generate_until") == expected
    assert batches == [2, 2, 1, 1, 1]
    assert len(lm.pending) == 0


def test_a_prompt_that_does_not_fit_is_refused_not_cut(lab):
    """lm-eval would cut the beginning off."""
    long = generations(("x" * (512 - 12), "short"))
    ask(lab.cached(), "generate_until", long)
    with pytest.raises(InputError, match=r"501 tokens and an answer of up to 12 do not fit .* 512 tokens: lower the"):
        ask(lab.cached(), "generate_until", generations(("x" * (512 - 11), "short")))


def test_options_that_do_not_fit_are_refused_not_cut(lab):
    def options(length: int) -> list[Instance]:
        return [Instance("loglikelihood", {}, ("x" * length, " ab"), 0)]

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


def test_sampling_is_refused(lab):
    request = Instance("generate_until", {}, ("one", {"until": STOPS, "max_gen_toks": 3, "do_sample": True}), 0)
    with pytest.raises(InputError, match="set `do_sample: false`"):
        ask(lab.cached(), "generate_until", [request])


def test_shared_beginnings_are_computed_once(lab):
    examples = "Three worked examples. " * 3
    requests = generations(tuple(examples + text for text in ("one", "twenty two", "3")))
    expected = ask(lab.plain(), "generate_until", requests)
    widths = []
    lab.model.register_forward_pre_hook(lambda _, a, k: widths.append(k["input_ids"].shape), with_kwargs=True)
    assert ask(lab.cached(batch_size=3), "generate_until", requests) == expected
    assert widths[:2] == [(1, len(examples)), (3, len("twenty two"))]


def test_options_of_one_question_share_its_pass_and_their_beginning(lab):
    question = "What is the answer to all of this? "
    options = ("it is forty", "it is 42", "it is no", "it is")
    requests = [Instance("loglikelihood", {}, (question, text), i) for i, text in enumerate(options)]
    expected = ask(lab.plain(), "loglikelihood", requests)
    shapes = []
    lab.model.register_forward_pre_hook(lambda _, a, k: shapes.append(k["input_ids"].shape), with_kwargs=True)
    assert_same(ask(lab.cached(batch_size=4), "loglikelihood", requests), expected)
    # lm-eval gives the question's space to the option; of the shortest option a token is left for the second pass
    assert shapes == [(1, len(question + "it i")), (4, len("s forty") - 1)]


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

    monkeypatch.setattr(lm.inner, "tok_decode", failing_at_the_third)
    ask(lm, "generate_until")
    for each in (expected, lm):  # nothing is left over for what is asked next
        ask(each, "generate_until", generations(("six 6", "and seven")))
    assert lm.answers.records == expected.answers.records
    assert len({record["tokens"] for record in lm.answers.records.values()}) > 1


@pytest.mark.parametrize("kind", ASK)
def test_out_of_memory_at_a_batch_of_one_names_the_sizes_tried(lab, kind):
    limit_memory(lab, 0, ERRORS[0])
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
        record = lm.answers[AnswerFile.key("generate_until", request.args)]
        assert (record["tokens"], record["finish"]) == (tokens, finish), request.args[0]


def test_an_answer_caught_in_a_loop_counts_to_its_limit(lab):
    """What is generated of it is what lm-eval's own class generates first."""
    asked = [Instance("generate_until", {}, (text, {"max_gen_toks": 300, "until": []}), 0) for text in TWELVE]
    lab.model.generation_config.eos_token_id = 0
    lm, expected = lab.cached(), ask(lab.plain(), "generate_until", asked)
    found = ask(lm, "generate_until", asked)
    records = [lm.answers[AnswerFile.key("generate_until", request.args)] for request in asked]
    assert {record["finish"] for record in records} >= {"loop", "length"}
    for ours, theirs, record in zip(found, expected, records, strict=True):
        assert theirs.startswith(ours.rstrip("\ufffd")) and (ours == theirs) == (record["finish"] != "loop")
        assert (record["tokens"] == 300) == (record["finish"] != "stop")


# lm-eval's tasks on our data

ARC = [
    {
        "id": "Mercury_7081673",
        "query": "Question: Which piece of safety equipment is used to keep mold spores from entering the respiratory "
        "system?\nAnswer:",
        "choices": ["safety goggles", "breathing mask", "rubber gloves", "lead apron"],
        "gold": 1,
    },
    {
        "id": "NYSEDREGENTS_2008_4_6",
        "query": "Question: When a rock is placed in a graduated cylinder containing water, the height of the water "
        "will\nAnswer:",
        "choices": ["decrease", "increase", "remain the same"],
        "gold": 1,
    },
]
AQUA = [
    {
        "question": "Three birds are flying at a fast rate of 900 kilometers per hour. What is their speed in miles "
        "per minute? [1km = 0.6 miles]",
        "options": ["A)32400", "B)6000", "C)600", "D)60000", "E)10"],
        "rationale": "900 kilometers = 540 miles",
        "correct": "A",
    },
    {
        "question": "Add: +45 and -30",
        "options": ["A)-30", "B)+30", "C)0", "D)15", "E)-15"],
        "rationale": "45 - 30 = 15\nANSWER : D",
        "correct": "D",
    },
]
ARC_FIELDS, AQUA_FIELDS = ["id", "question", "choices", "answerKey"], ["query", "choices", "gold"]


def run(lab: Lab, task: str, records: list[dict], adapter: str | None, fields: list[str]) -> dict:
    """lm-eval's result of a task of config/tasks/ on `records`, written as fetch_dataset writes them."""
    data = lab.path.with_name("data.parquet")
    frame = pd.DataFrame.from_records(adapt(records, adapter, fields, "test"), columns=fields)
    artifacts.write_parquet(data, frame, "dataset", {})
    os.utime(data, (1, 1))  # the same for all contents
    definition = tasks.definition(TASKS / f"{task}.yaml")
    definition["dataset_kwargs"]["data_files"] = {
        split: str(data) for split in definition["dataset_kwargs"]["data_files"]
    }
    if "generation_kwargs" in definition:
        definition["generation_kwargs"]["max_gen_toks"] = 192  # the random model has a short context
    return harness.evaluate(lab.cached(), definition, None)


@pytest.fixture(scope="module")
def arc(tmp_path_factory) -> SimpleNamespace:
    lab = Lab(tmp_path_factory.mktemp("arc"))
    return SimpleNamespace(lab=lab, result=run(lab, "arc_easy", ARC, "arc_olmo", ARC_FIELDS))


def prompts(result: dict) -> list[list[tuple[str, str]]]:
    """(context, continuation) of every option, an item each."""
    (samples,) = result["samples"].values()
    return [[tuple(arguments) for arguments in sample["arguments"]] for sample in samples]


def test_every_adapter_has_a_golden_prompt_here():
    names = {path.stem for path in Path(adapters.__file__).parent.glob("*.py")} - {"__init__"}
    assert names == {"arc_olmo", "aqua_raw", "aqua_rationale"}


def test_arc_is_rendered_as_lm_eval_does(arc):
    first = (
        "Question: Which piece of safety equipment is used to keep mold spores from entering the respiratory system?"
    )
    second = "Question: When a rock is placed in a graduated cylinder containing water, the height of the water will"
    assert prompts(arc.result) == [
        [
            (f"{first}\nAnswer:", " safety goggles"),
            (f"{first}\nAnswer:", " breathing mask"),
            (f"{first}\nAnswer:", " rubber gloves"),
            (f"{first}\nAnswer:", " lead apron"),
        ],
        [
            (f"{second}\nAnswer:", " decrease"),
            (f"{second}\nAnswer:", " increase"),
            (f"{second}\nAnswer:", " remain the same"),
        ],
    ]
    (samples,) = arc.result["samples"].values()
    assert [str(sample["target"]) for sample in samples] == ["1", "1"]


def test_aqua_is_rendered_as_agieval_does(lab):
    result = run(lab, "aqua", AQUA, "aqua_raw", AQUA_FIELDS)
    birds = (
        "Q: Three birds are flying at a fast rate of 900 kilometers per hour. What is their speed in miles per minute? "
        "[1km = 0.6 miles] Answer Choices: (A)32400 (B)6000 (C)600 (D)60000 (E)10\n"
        "A: Among A through E, the answer is"
    )
    add = "Q: Add: +45 and -30 Answer Choices: (A)-30 (B)+30 (C)0 (D)15 (E)-15\nA: Among A through E, the answer is"
    assert prompts(result) == [
        [(birds, " (A)32400"), (birds, " (B)6000"), (birds, " (C)600"), (birds, " (D)60000"), (birds, " (E)10")],
        [(add, " (A)-30"), (add, " (B)+30"), (add, " (C)0"), (add, " (D)15"), (add, " (E)-15")],
    ]
    (samples,) = result["samples"].values()
    assert [str(sample["target"]) for sample in samples] == ["[0]", "[3]"]


def test_aqua_is_tuned_on_the_form_it_is_asked_and_read_in(lab):
    """The recovery's text: the question as AGIEval words it, the rationale, the letter where aqua_cot looks for it."""
    dataset = DEFAULT.datasets["aqua_rat"]
    (_, add) = adapt(AQUA, "aqua_rationale", dataset.fields, "train")
    question = "Q: Add: +45 and -30 Answer Choices: (A)-30 (B)+30 (C)0 (D)15 (E)-15\nA:"
    completion = " 45 - 30 = 15\nANSWER : D\nThe answer is (D)"
    assert dataset.prompt.format_map(add) == question
    assert dataset.completion.format_map(add) == completion

    result = run(lab, "aqua_cot", AQUA, "aqua_raw", AQUA_FIELDS)
    (samples,) = result["samples"].values()
    asked = [sample["arguments"][0][0] for sample in samples if sample["doc_id"] == 1]
    assert set(asked) == {question + " Let's think step by step."}
    assert read(completion) == ("D", "D")


def read(text: str) -> tuple[str, str]:
    """The answer that aqua_cot's strict and flexible filters find, by lm-eval's own filters; `-` for none."""
    answers = []
    for entry in tasks.definition(TASKS / "aqua_cot.yaml")["filter_list"]:
        steps = [(step["function"], {k: v for k, v in step.items() if k != "function"}) for step in entry["filter"]]
        request = SimpleNamespace(resps=[text], doc={}, doc_id=0, filtered_resps={})
        build_filter_ensemble(entry["name"], steps).apply([request])
        answers.append(request.filtered_resps[entry["name"]].replace("[invalid]", "-"))
    return tuple(answers)


@pytest.mark.parametrize(
    ("text", "strict", "flexible"),
    [
        # the article is no answer
        ("A train leaves at 5 and is 3 hours late, so the answer is 5", "-", "-"),
        ("The answer is A train", "-", "-"),
        ("The answer is A 5-digit number", "-", "-"),
        ("the answer is: A man of 30 years", "-", "-"),
        ("Answer: A train of 100 m", "-", "-"),
        ("The answer is\nA train", "-", "-"),
        ("The answer is 5. A train is faster", "-", "-"),
        ("A boat goes upstream. A", "-", "-"),  # cut off after an article
        ('It is A "fast" train', "-", "-"),
        ("A *fast* train, A $5 ticket, A (small) fee", "-", "-"),
        ("At 9 A.M. he starts", "-", "-"),
        ("A's speed is 5", "-", "-"),
        ("A = 5", "-", "-"),
        ("An answer is what we want", "-", "-"),
        ("so the answer is 5", "-", "-"),
        ("", "-", "-"),
        # the letter is one
        ("The answer is (A)", "A", "A"),
        ("The answer is A)", "A", "A"),
        ("The answer is A) 32400", "A", "A"),
        ("So the answer is A.", "A", "A"),
        ("The answer is A", "A", "A"),
        ("The answer is A\nNext, a train", "A", "A"),
        ("The answer is A because 5 + 3 = 8", "A", "A"),
        ("answer: A", "A", "A"),
        ("ANSWER : A", "A", "A"),
        ("The answer is **A**", "A", "A"),
        ("The answer is $\\boxed{A}$", "A", "A"),
        ("The answer is \\boxed{\\text{A}}", "A", "A"),
        ("Hence \\boxed{A}", "-", "A"),
        ("so option A", "-", "A"),
        ("which is option A with 600", "-", "A"),
        ("The answer is option A with 600", "A", "A"),
        ("The answer is the correct choice (A)", "A", "A"),
        ("It must be (A) 600", "-", "A"),
        ("A) 32400", "-", "A"),
        ("The speed is 32400.\nA\n", "-", "A"),
        # the other letters, and which of several
        ("The answer is C", "C", "C"),
        ("the answer is 600 (C) km", "C", "C"),
        ("A train leaves at 5. The answer is 5, hence (E).", "E", "E"),
        ("A train leaves. Options: (A) 5 (B) 6. So it is B", "-", "B"),
        ("The answer is (B). Q: A man", "B", "B"),
        ("The answer is (B). No, the answer is (C).", "B", "C"),
        ("The answer is B * 5", "-", "B"),
        ("The answer is Because", "-", "-"),
        ("45 - 30 = 15\nANSWER : D\nThe answer is (D)", "D", "D"),
    ],
)
def test_aquas_generated_answer_is_a_letter_and_never_the_article(text, strict, flexible):
    assert read(text) == (strict, flexible)


def log_likelihood(lab: Lab, context: str, continuation: str) -> float:
    """By hand: log-probabilities of the continuation's tokens."""
    ids = lab.tokenizer(context + continuation)["input_ids"]
    start = len(lab.tokenizer(context)["input_ids"])
    log_p = lab.model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(log_p[t - 1, ids[t]].item() for t in range(start, len(ids)))


def test_outcomes_of_scored_options_are_worked_out_by_hand(arc):
    frame = outcomes(arc.result, arc.lab.cached().answers, ["acc_norm", "acc"])
    assert frame["metric"].tolist() == ["acc", "acc", "acc_norm", "acc_norm"]
    assert frame["item"].tolist() == [0, 1, 0, 1]
    for item, record in enumerate(ARC):
        scores = [log_likelihood(arc.lab, record["query"], f" {choice}") for choice in record["choices"]]
        best = max(range(len(scores)), key=scores.__getitem__)
        a_letter = [score / len(choice) for score, choice in zip(scores, record["choices"], strict=True)]
        best_norm = max(range(len(scores)), key=a_letter.__getitem__)
        acc, norm = (frame[(frame["item"] == item) & (frame["metric"] == m)].iloc[0] for m in ("acc", "acc_norm"))
        assert acc["prediction"] == str(best)
        assert acc["value"] == float(best == record["gold"])
        assert norm["value"] == float(best_norm == record["gold"])
        assert acc["target"] == "1"
    assert frame["weight"].tolist() == [1] * 4
    assert frame["generated_tokens"].isna().all()
    assert frame["finish_reason"].isna().all()
    assert frame["cluster"].isna().all() and frame["cluster"].dtype == "string"
    assert frame.groupby("item")["item_hash"].nunique().tolist() == [1, 1]
    assert frame["item_hash"].nunique() == 2


def test_item_hashes_change_with_the_item_and_not_with_the_model(arc, lab):
    one = outcomes(arc.result, arc.lab.cached().answers, ["acc"])
    lab.model.lm_head.weight.neg_()
    edited = [ARC[0], {**ARC[1], "choices": ["decrease", "increase", "stay the same"]}]
    two = outcomes(run(lab, "arc_easy", edited, "arc_olmo", ARC_FIELDS), lab.cached().answers, ["acc"])
    assert one["item_hash"][0] == two["item_hash"][0]
    assert one["item_hash"][1] != two["item_hash"][1]


PROBLEMS = [
    {"question": "What is 1 + 1?", "answer": "1 + 1 = 2\n#### 2", "template": 4},
    {"question": "How many days are two weeks?", "answer": "2 * 7 = 14\n#### 14", "template": 95},
    {"question": "What is 3 * 400?", "answer": "3 * 400 = 1,200\n#### 1200", "template": 4},
]


@pytest.mark.parametrize("right", [0, 1], ids=["none of four right", "one of four"])
def test_a_hopeless_model_is_asked_no_further(lab, monkeypatch, right):
    """The upper end of Wilson's 99% interval is z²/(4 + z²) = 0.624 after no right answer of four, 0.785 after one."""
    problems = [{"question": f"What is {n} + {n}?", "answer": f"#### {2 * n}", "template": n} for n in range(9)]
    texts = {p["question"]: f"#### {2 * n + (n >= right)}\n\nQuestion:" for n, p in enumerate(problems)}
    said, seen = speak(texts, lab), []
    monkeypatch.setattr(generation, "greedy", lambda *args, **kw: (seen.append(len(args[1])), said(*args, **kw))[1])
    data, source = lab.path.with_name("data.parquet"), lab.path.with_name("task.yaml")
    artifacts.write_parquet(data, pd.DataFrame(problems), "dataset", {})
    definition = tasks.definition(TASKS / "gsm_symbolic.yaml")
    definition["dataset_kwargs"]["data_files"] = {"test": str(data)}
    source.write_text(yaml.safe_dump(definition))
    settings = LmEvalTask(
        kind="lm_eval",
        title="T",
        metrics=["exact_match,strict-match"],
        stop_early={"after": 4, "below": 0.7},
        limit=8,
        batch_size=2,
    ).model_dump() | {"dtype": "float32"}
    remembered = kinds.Remembered(lab.path.parent, "t", ["m"])
    outcome = of_lm_eval.ask(lab.model, lab.tokenizer, settings, source, remembered)
    asked = 8 if right else 4
    assert outcome.samples["item"].tolist() == list(range(asked)) and outcome.samples["value"].sum() == right
    assert sum(seen) == asked  # the first four not again
    stopped = None if right else {"exact_match,strict-match": pytest.approx(0.62388, abs=1e-5)}
    assert outcome.result.get("stopped_early") == stopped


SWAPS = {
    "shuffled": lambda table, train: (table.take([2, 0, 1]), "was changed after it was made"),
    "another split's": lambda table, train: (train, "is results/data/sums/train.parquet, put in another's place"),
}


@pytest.mark.parametrize("swap", SWAPS.values(), ids=SWAPS)
def test_items_that_are_not_the_tasks_own_are_refused(lab, swap):
    folder, source = lab.path.parent / "results/data/sums", lab.path.with_name("task.yaml")
    for split in ("test", "train"):
        artifacts.write_parquet(folder / f"{split}.parquet", pd.DataFrame(PROBLEMS).iloc[::-1], "dataset", {})
    data, words = swap(*(pq.read_table(folder / f"{split}.parquet", partitioning=None) for split in ("test", "train")))
    pq.write_table(data, folder / "test.parquet")
    definition = tasks.definition(TASKS / "gsm_symbolic.yaml")
    definition["dataset_kwargs"]["data_files"] = {"test": str(folder / "test.parquet")}
    source.write_text(yaml.safe_dump(definition))
    settings = LmEvalTask(kind="lm_eval", title="T", metrics=["exact_match,strict-match"]).model_dump()
    with pytest.raises(InputError, match=f"sums/test.parquet: {words}; delete it"):
        of_lm_eval.ask(
            lab.model, lab.tokenizer, settings | {"dtype": "float32"}, source, kinds.Remembered(folder, "t", ["m"])
        )


def test_items_are_read_anew_though_path_and_times_are_as_before(lab):
    """datasets' own cache would give the earlier ones."""
    asked = []
    for name in ("1", "2"):
        records = [{"question": f"What is {name} + 1?", "answer": "#### 2", "template": 0}]
        result = run(lab, "gsm_symbolic", records, None, ["question", "answer", "template"])
        asked += [sample["doc"]["question"] for samples in result["samples"].values() for sample in samples]
    assert asked == ["What is 1 + 1?", "What is 2 + 1?"]
    assert "cache_dir" not in str(result["configs"])


@pytest.fixture
def solved(lab, monkeypatch) -> pd.DataFrame:
    """Outcomes of generated answers: right, wrong, and endless."""
    written = ["1 + 1 = 2\n#### 2\n\nQuestion: and", "2 * 7 = 15\n#### 15\n\nQuestion:", "mmmm" * 100]

    texts = {problem["question"]: text for problem, text in zip(PROBLEMS, written, strict=True)}
    monkeypatch.setattr(generation, "greedy", speak(texts, lab))
    result = run(lab, "gsm_symbolic", PROBLEMS, None, ["question", "answer", "template"])
    (samples,) = result["samples"].values()
    assert [sample["arguments"][0][0] for sample in samples] == [
        "Question: What is 1 + 1?\nAnswer:",
        "Question: How many days are two weeks?\nAnswer:",
        "Question: What is 3 * 400?\nAnswer:",
    ]
    return outcomes(result, lab.cached().answers, ["exact_match,strict-match"])


def test_prompts_are_as_the_config_asks(lab, monkeypatch):
    """Two shared examples, the items from the second on, in chat format, with short answers."""
    monkeypatch.setattr(generation, "greedy", speak({"Question": "mm" * 99}, lab))
    lab.tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    definition = tasks.definition(TASKS / "gsm_symbolic.yaml")
    data = lab.path.with_name("data.parquet")
    artifacts.write_parquet(data, pd.DataFrame(PROBLEMS), "dataset", {})
    definition["dataset_kwargs"]["data_files"] = {"test": str(data)}
    definition["fewshot_split"] = "test"
    asked = {"num_fewshot": 2, "shared_examples": True, "chat_template": True, "max_gen_toks": 7}
    result = harness.evaluate(lab.cached(), definition, 1, 2, **asked)
    for limit, expected in ((None, [1, 2]), (5, [1, 2]), (1, [1])):
        ((some),) = harness.evaluate(lab.cached(), definition, limit, 1, **asked)["samples"].values()
        assert [sample["doc_id"] for sample in some] == expected
    with pytest.raises(InputError, match=r"first: 3, but .*data\.parquet has only 3 items"):
        harness.evaluate(lab.cached(), definition, None, 3, **asked)
    ((samples),) = result["samples"].values()
    (sample,) = samples
    first, second, third = PROBLEMS
    shown = "".join(
        f"<user>Question: {p['question']}\nAnswer:<assistant>{p['answer'].split('#### ')[1]}" for p in (first, second)
    )
    assert sample["doc_id"] == 2
    assert sample["arguments"][0][0] == f"{shown}<user>Question: {third['question']}\nAnswer:<assistant>"
    assert outcomes(result, lab.cached().answers, ["exact_match,strict-match"])["generated_tokens"].tolist() == [7]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ question.__class__.__mro__[1].__subclasses__() }}", "access to attribute '__class__'"),
        ("{{ questoin }}", "'questoin' is undefined"),
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "it takes more than 0.2 s"),
        ("{{ 'x' * 10**10 }}", r"\* makes more than 1,000,000 of something"),
        ("{{ 9**9**9 }}", r"\*\* makes more than 1,000,000 of something"),
    ],
)
def test_a_template_gets_at_the_items_fields_alone(lab, template, message, monkeypatch):
    monkeypatch.setattr(harness, "SECONDS", 0.2)
    definition = tasks.definition(TASKS / "gsm_symbolic.yaml")
    data = lab.path.with_name("data.parquet")
    artifacts.write_parquet(data, pd.DataFrame(PROBLEMS), "dataset", {})
    definition |= {"dataset_kwargs": {"data_files": {"test": str(data)}}, "doc_to_text": template}
    with pytest.raises(InputError, match=f"a template cannot be rendered: .*{message}"):
        harness.evaluate(lab.cached(), definition, 1)


REGEX = {"function": "regex", "regex_pattern": "("}
MEAN = {"aggregation": "mean", "higher_is_better": True}
ODD = {  # changes of a definition -> what is said
    "looping": (
        {"doc_to_text": "{% for i in range(10**9) %}x{% endfor %}"},
        "apply_template: OverflowError Range too big",
    ),
    "division": ({"doc_to_text": "{{ 1 / 0 }}"}, "apply_template: ZeroDivisionError division by zero"),
    "types": ({"doc_to_text": "{{ question + 1 }}"}, "apply_template: TypeError can only concatenate"),
    "recursion": ({"doc_to_text": "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}"}, "apply_template: RecursionError"),
    "no text": ({"doc_to_text": 3}, "build_qa_turn: AssertionError Context is not a string"),
    "unknown key": ({"doc_to_txt": "x"}, "init: TypeError .* unexpected keyword argument 'doc_to_txt'"),
    "unknown filter": ({"filter_list": [{"name": "s", "filter": [{"function": "shout"}]}]}, "Unknown filter 'shout'"),
    "broken pattern": ({"filter_list": [{"name": "s", "filter": [REGEX]}]}, "unterminated subpattern"),
    "unknown metric": ({"metric_list": [{"metric": "wow", **MEAN}]}, "process_results: TypeError"),
    "unknown sampler": ({"fewshot_config": {"sampler": "wow"}, "num_fewshot": 1}, "no sampling strategy"),
    "no such split": ({"fewshot_split": "none", "num_fewshot": 1}, "fewshot_docs: KeyError 'none'"),
    "too many examples": ({"fewshot_split": "test", "num_fewshot": 9}, "Sample larger than population"),
    "a function in words": ({"process_docs": "x"}, "'str' object is not callable"),
    "unknown option": ({"dataset_kwargs": {"nope": 1}}, "unexpected keyword argument 'nope'"),
}


@pytest.mark.parametrize("name", ODD)
def test_what_lm_eval_cannot_ask_is_one_line(lab, name: str, monkeypatch):
    changes, message = ODD[name]
    monkeypatch.setattr(generation, "greedy", speak({"Question": "mm"}, lab))
    data = lab.path.with_name("data.parquet")
    artifacts.write_parquet(data, pd.DataFrame(PROBLEMS), "dataset", {})
    definition = {**tasks.definition(TASKS / "gsm_symbolic.yaml"), **changes}
    definition["dataset_kwargs"] = {**changes.get("dataset_kwargs", {}), "data_files": {"test": str(data)}}
    with pytest.raises(
        InputError, match=f"task gsm_symbolic: lm-eval cannot ask it as it is defined: .*{message}"
    ) as error:
        harness.evaluate(lab.cached(), definition, 1)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_an_error_of_the_model_is_not_taken_for_one_of_the_task(lab, monkeypatch):
    def fails(*_: object, **__: object) -> None:
        raise ValueError("of the model")

    monkeypatch.setattr(generation, "greedy", fails)
    with pytest.raises(ValueError, match="^of the model$"):
        run(lab, "gsm_symbolic", PROBLEMS, None, ["question", "answer", "template"])


def test_a_chat_format_that_is_not_there_is_refused(lab):
    with pytest.raises(InputError, match="chat_template: this model's tokenizer has none"):
        harness.evaluate(lab.cached(), {"task": "x"}, None, chat_template=True)


def test_outcomes_of_generated_answers_by_hand(solved):
    assert solved["value"].tolist() == [1, 0, 0]
    assert solved["prediction"].tolist() == ["2", "15", "[invalid]"]
    assert solved["target"].tolist() == ["2", "14", "1200"]
    stopped = ["1 + 1 = 2\n#### 2\n\nQuestion:", "2 * 7 = 15\n#### 15\n\nQuestion:"]
    assert solved["generated_tokens"].tolist() == [*map(len, stopped), 192]
    assert solved["finish_reason"].tolist() == ["stop", "stop", "length"]
    assert solved["item_hash"].nunique() == 3
    assert solved["cluster"].tolist() == ["4", "95", "4"]


def test_an_unknown_metric_names_those_there_are(arc):
    with pytest.raises(InputError, match=r"metrics: \['exact_match'\] not among this task's: \['acc', 'acc_norm'\]"):
        outcomes(arc.result, arc.lab.cached().answers, ["acc", "exact_match"])


def test_predictions_by_hand():
    assert prediction({"filtered_resps": ["42", "43"]}) == "42"
    assert prediction({"filtered_resps": [(-3.0, False), (-1.0, True), (-2.0, False)]}) == "1"


# perplexity


def test_windows_are_whole_and_the_rest_is_dropped():
    assert windows(range(10), 4, None).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert windows(range(8), 4, None).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert windows(range(10), 4, 7).tolist() == [[0, 1, 2, 3]]
    assert windows(range(10), 4, 99).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_a_text_shorter_than_a_window_is_refused():
    with pytest.raises(InputError, match="3 tokens are less than one window of seqlen 4"):
        windows(range(3), 4, None)


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
    found = list(negative_log_likelihoods(model, cut, batch_size))
    assert found == pytest.approx([surprise(model, window.tolist()) for window in cut], rel=1e-5)
    assert max(found) > 1.1 * min(found)


def windowed(folder, task) -> SimpleNamespace:
    """The stage's results on data.parquet, with the model beside it."""
    original = {"widths": [1], "parameters": 1}
    artifacts.write_json(
        folder / "model/manifest.json",
        {"files": artifacts.directory_hashes(folder / "model"), "original": original, **original},
        "base",
        {},
    )
    task = {"kind": "perplexity", "dtype": "float32", "tokens": None, "batch_size": 2, **task}
    source = [f"wiki={folder}/data.parquet"]
    model = folder / "model"
    evaluate_stage.evaluate({"tasks": {"wiki": task}}, model, model / "manifest.json", source, folder)
    return SimpleNamespace(json=folder / "wiki.json", samples=folder / "wiki.samples.parquet")


def test_the_perplexity_stage_joins_records_and_weighs_tokens(tmp_path):
    model = tiny.qwen2()
    tiny.save(model, tmp_path / "model")
    records = pd.DataFrame({"text": ["abc", "defgh", "ij klmnopqrs"]})
    artifacts.write_parquet(tmp_path / "data.parquet", records, "dataset", {})
    paths = windowed(tmp_path, {"text": "<{text}>", "joiner": "--", "seqlen": 8})
    ids = tiny.tokenizer()("<abc>--<defgh>--<ij klmnopqrs>")["input_ids"]
    nll = [surprise(model, ids[start : start + 8]) for start in (0, 8, 16)]
    frame = artifacts.read_parquet(paths.samples, "samples")
    assert frame["value"].tolist() == pytest.approx(nll, rel=1e-5)
    assert frame["weight"].tolist() == [7, 7, 7]
    assert frame["item_hash"].nunique() == 3
    content = artifacts.read_json(paths.json, "evaluation")
    assert content["perplexity"] == pytest.approx(math.exp(sum(nll) / 21), rel=1e-5)
    assert (content["tokens"], content["windows"], content["seqlen"]) == (21, 3, 8)


def test_a_window_longer_than_the_context_is_refused(tmp_path):
    tiny.save(tiny.qwen2(max_position_embeddings=16), tmp_path / "model")
    artifacts.write_parquet(tmp_path / "data.parquet", pd.DataFrame({"text": ["a" * 99]}), "dataset", {})
    with pytest.raises(InputError, match="seqlen: 17 is longer than the model's context of 16 tokens"):
        windowed(tmp_path, {"text": "{text}", "joiner": "", "seqlen": 17})
