"""Cached answers in front of any model of lm-eval (its dummy, its Hugging Face class as it is, and ours): only what is
missing is asked, and an evaluation is that of the model alone."""

import json
import random
from collections import deque

import lm_eval
import pytest
import torch
import yaml
from lab import Lab, assert_same
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.models.dummy import DummyLM
from lm_eval.models.huggingface import HFLM

import tiny
from pruning.core.artifacts import key_of
from pruning.core.errors import InputError
from pruning.evaluation import harness
from pruning.evaluation.answers import AnswerFile, CachingLM
from pruning.evaluation.backends.hf import HuggingFaceLM
from pruning.evaluation.samples import outcomes

SHORT = {"until": ["Q", "xx"], "max_gen_toks": 12, "do_sample": False}
TEXTS = ["one", "twenty two", "3", "forty four four", "5 5"]
REQUESTS = {
    "generate_until": [(text, SHORT) for text in TEXTS],
    "loglikelihood": [("What is it?", f" {text}") for text in TEXTS[:3]] + [("a b", " c"), ("", "x")],
    "loglikelihood_rolling": [(text,) for text in TEXTS[:4]] + [("far more than one window " * 30,)],
}
KINDS, MODELS = list(REQUESTS), ["dummy", "stock", "ours"]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results" / ".task.jsonl"


class Counted:
    """A model of lm-eval that counts what it is asked."""

    def __getattribute__(self, name):
        found = super().__getattribute__(name)
        if name not in KINDS:
            return found
        seen = self.__dict__.setdefault("seen", [])
        return lambda requests, **options: (seen.extend(r.args for r in requests), found(requests, **options))[1]


class Dummy(Counted, DummyLM):
    """Answers at random, and reports nothing to its cache hook."""


class Stock(Counted, HFLM):
    """lm-eval's own class: it reports each answer, and nothing about it."""


class Ours(Counted, HuggingFaceLM):
    """It reports each answer, and how it came about."""


def make(name: str, batch_size: int = 2) -> LM:
    random.seed(0)
    if name == "dummy":
        return Dummy()
    model, tokenizer = tiny.qwen2(max_position_embeddings=64), tiny.tokenizer()
    tokenizer.padding_side = "left"
    if name == "stock":
        return Stock(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, backend="causal")
    return Ours(model, tokenizer, batch_size)


def ask(lm, kind: str, arguments: list[tuple] | None = None) -> list:
    requests = [Instance(kind, {}, own, i) for i, own in enumerate(REQUESTS[kind] if arguments is None else arguments)]
    return getattr(lm, kind)(requests, disable_tqdm=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MODELS)
def test_answers_are_those_of_the_model_alone_and_only_what_is_missing_is_asked(name, kind, path, tmp_path):
    """What models, and kinds of requests, do not report is on record when the call returns."""

    def answered(arguments=REQUESTS[kind], path=path) -> tuple[list, list]:
        found = ask(CachingLM(inner := make(name), AnswerFile(path)), kind, arguments)
        return found, inner.__dict__.get("seen", [])

    expected, wanted = ask(make(name), kind), REQUESTS[kind]
    assert_same(ask(make("ours"), kind), ask(make("stock"), kind))  # the last text is cut into windows
    assert len({str(answer) for answer in expected}) > (0 if (name, kind) == ("dummy", "generate_until") else 3)
    first, asked = answered(path=tmp_path / "whole.jsonl")
    assert_same(first, expected)
    assert asked == wanted and answered(path=tmp_path / "whole.jsonl") == (first, [])
    known, _ = answered(wanted[1::2])
    found, asked = answered()
    assert asked == wanted[::2] and found[1::2] == known  # in the order of the requests
    if name != "dummy":
        assert_same(found, expected)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3]) + lines[3][:20])
    assert len(lines) == 5 and len(answered()[1]) == 2


@pytest.mark.parametrize("kind", ["generate_until", "loglikelihood"])
@pytest.mark.parametrize("name", ["stock", "ours"])
def test_a_killed_evaluation_goes_on_without_asking_again(name, kind, path, monkeypatch):
    """Killed within a call, when three answers have been recorded."""
    killed = CachingLM(make(name, batch_size=1), AnswerFile(path))

    def add(key, record, whole=killed.answers.add):
        whole(key, record)
        if len(killed.answers) == 3:
            raise KeyboardInterrupt

    killed.answers.add = add
    with pytest.raises(KeyboardInterrupt):
        ask(killed, kind)
    answered = set(AnswerFile(path))
    inner = make(name, batch_size=1)
    found = ask(CachingLM(inner, AnswerFile(path)), kind)
    assert len(answered) == 3 and len(inner.seen) == 2 and not {key_of(kind, own) for own in inner.seen} & answered
    assert_same(found, ask(make(name, batch_size=1), kind))


@pytest.mark.parametrize("name", MODELS)
def test_equal_requests_are_asked_once_and_answered_each(name, path):
    inner = make(name)
    same, other = ("What is it?", " this"), ("What is it?", " that")
    found = ask(CachingLM(inner, AnswerFile(path)), "loglikelihood", [same, same, other, same])
    assert inner.seen == [same, other]
    assert found[0] == found[1] == found[3] != found[2]
    assert [ask(CachingLM(make(name), AnswerFile(path)), kind, []) for kind in KINDS] == [[], [], []]


def test_details_are_recorded_where_a_model_has_them(path, tmp_path):
    ask(CachingLM(make("ours"), ours := AnswerFile(path)), "generate_until")
    assert all(record.keys() == {"response", "tokens", "finish"} for record in ours.values())
    ask(CachingLM(make("ours"), options := AnswerFile(tmp_path / "options.jsonl")), "loglikelihood")
    assert all(record.keys() == {"response"} for record in options.values())
    ask(CachingLM(make("stock"), stock := AnswerFile(tmp_path / "stock.jsonl")), "generate_until")
    assert stock == {key: {"response": record["response"]} for key, record in ours.items()}


class Odd(DummyLM):
    """What it reports is as told, what it returns is `own`."""

    def __init__(self, *reports: tuple):
        super().__init__()
        self.reports, self.details = reports, deque([{"tokens": 3}] * len(reports))

    def generate_until(self, requests, **options):
        for report in self.reports:
            self.cache_hook.add_partial(*report)
        return ["own" for _ in requests]


@pytest.mark.parametrize(
    ("reports", "record"),
    [
        ([("greedy_until", ("one", SHORT), "no"), ("generate_until", ("two", SHORT), "no")], {"response": "own"}),
        ([("generate_until", ("one", SHORT), "reported")], {"response": "own", "tokens": 3}),
    ],
    ids=["what nobody asked for", "another answer than is returned"],
)
def test_what_is_returned_counts(path, reports, record):
    """lm-eval's models report under other kinds and arguments at times."""
    assert ask(CachingLM(Odd(*reports), AnswerFile(path)), "generate_until", [("one", SHORT)]) == ["own"]
    assert AnswerFile(path) == {key_of("generate_until", ("one", SHORT)): record}


def test_an_answer_too_few_and_several_processes_are_refused(path):
    inner = DummyLM()
    inner.generate_until = lambda requests, **_: ["lol"]
    with pytest.raises(ValueError, match="zip"):
        ask(CachingLM(inner, AnswerFile(path)), "generate_until")
    inner._world_size = 2
    with pytest.raises(ValueError, match="2 processes"):
        CachingLM(inner, AnswerFile(path))


SAMPLED = [{"do_sample": True}, {"temperature": 0.7}, {"temperature": "0.7"}]


@pytest.mark.parametrize("asked", [*SAMPLED, {}, {"temperature": 0.0}, {"do_sample": False, "temperature": 0.7}])
def test_sampling_is_refused_and_greedy_is_not(asked, path):
    lm, requests = CachingLM(make("dummy"), AnswerFile(path)), [("one", {"until": ["Q"], **asked})]
    if asked in SAMPLED:
        with pytest.raises(InputError, match="only greedy answers can be cached: set `do_sample: false`"):
            ask(lm, "generate_until", requests)
    else:
        assert ask(lm, "generate_until", requests) == ["lol"]


@pytest.mark.parametrize("asked", [{"do_sample": True}, {"num_beams": 2}, {"repetion_penalty": 2}])
def test_ours_alone_refuses_what_is_not_greedy(asked):
    with pytest.raises(InputError, match="answers are greedy"):
        ask(make("ours"), "generate_until", [("one", {**SHORT, **asked})])


def test_all_but_the_answers_is_the_models_own(path):
    inner = make("stock")
    lm = CachingLM(inner, AnswerFile(path))
    for name in {name for name in dir(LM) if not name.startswith("_")} - {*KINDS, "chat_template"}:
        assert getattr(lm, name) == getattr(inner, name)
    assert lm.tokenizer is inner.tokenizer and lm.model is inner.model and lm.max_length == 64
    assert not hasattr(lm, "MULTIMODAL")


ERRORS = [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()]
SAID = ("DefaultCPUAllocator: can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
ERRORS += map(RuntimeError, SAID)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: str(error) or type(error).__name__)
def test_out_of_memory_asks_only_for_what_is_missing(kind, error, path):
    """When a first batch has been answered; what is reported survives, windows of a longer text are not reported."""
    lm, passes = CachingLM(make("ours", batch_size=2), AnswerFile(path)), []

    def refuse(_, args, kwargs):
        passes.append(len(kwargs["input_ids"]))
        answered = len(passes) > 2 if kind == "loglikelihood_rolling" else len(lm.answers) >= 2
        if answered and passes[-1] > 1:
            raise error

    lm.model.register_forward_pre_hook(refuse, with_kwargs=True)
    assert_same(ask(lm, kind), ask(make("ours"), kind))
    assert lm.batch_size_per_gpu == 1 and lm.seen[:5] == REQUESTS[kind]
    assert len(lm.seen) == (10 if kind == "loglikelihood_rolling" else 8)
    assert path.read_bytes().count(b"\n") == 5


# whole evaluations

SUMS = [{"question": f"What is {n} + 1?", "answer": f"{n} + 1 = {n + 1}\n#### {n + 1}"} for n in range(3)]
GAPS = [
    {"sentence": "The dog chased a cat because _ was fast.", "option1": "the dog", "option2": "a cat", "answer": "1"},
    {"sentence": "Ann thanked Eve, for _ had helped.", "option1": "Ann", "option2": "Eve", "answer": "2"},
]
TASKS = {"gsm_symbolic": (SUMS, ["exact_match,strict-match"]), "winogrande": (GAPS, ["acc"])}


def evaluated(lm: LM, task: str, folder, limit=None, first=0, **options) -> dict:
    definition = Lab(folder).definition(task, TASKS[task][0])
    return harness.evaluate(lm, definition, limit, first, max_gen_toks=12, **options)


@pytest.mark.parametrize(
    ("name", "task", "own", "given"),
    [
        ("dummy", "gsm_symbolic", None, None),
        ("stock", "winogrande", None, None),
        *(("stock", "gsm_symbolic", *shots) for shots in ((None, None), (None, 1), (0, 1), (2, None), (2, 1))),
    ],
)
def test_an_evaluation_is_that_of_lm_evals_simple_evaluate(name, task, own, given, path, tmp_path, monkeypatch):
    """Of the model alone, by what looks at pip, gcc and others as well. lm-eval's own models, (winogrande) a packaged
    task that names functions, and worked examples as the task (`own`) and the config have them."""
    if name == "dummy":
        monkeypatch.setattr(DummyLM, "tokenizer", tiny.tokenizer())  # its own is on the hub
    alone, inner = ((DummyLM() if name == "dummy" else HFLM(tiny.qwen2(), tokenizer=tiny.tokenizer())) for _ in "ab")
    changes = {} if task == "winogrande" else {"fewshot_split": "test"} | ({} if own is None else {"num_fewshot": own})
    definition = Lab(tmp_path).definition(task, TASKS[task][0], **changes)
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(definition))
    lm = CachingLM(inner, answers := AnswerFile(path))
    found = harness.evaluate(lm, definition, 2, num_fewshot=given, max_gen_toks=12)
    expected = lm_eval.simple_evaluate(
        alone,
        tasks=[str(tmp_path / "task.yaml")],
        limit=2,
        num_fewshot=given,
        gen_kwargs={"max_gen_toks": 12},
        bootstrap_iters=0,
        task_manager=lm_eval.tasks.TaskManager(include_defaults=False),
    )
    for key in ("results", "samples", "n-samples", "n-shot"):
        assert json.dumps(found[key], default=str) == json.dumps(expected[key], default=str)
    assert " at 0x" not in json.dumps(found["configs"], default=str)  # of functions: equal runs make equal bytes
    frame = outcomes(found, answers, TASKS[task][1])
    assert len(frame) == 2 and frame[["generated_tokens", "finish_reason"]].isna().all(axis=None)
    assert frame["repetition"].isna().all() == (task == "winogrande")


def test_the_first_item_can_be_chosen_of_a_packaged_task(path, tmp_path, monkeypatch):
    """Its name stands in the packaged file alone."""
    monkeypatch.setattr(DummyLM, "tokenizer", tiny.tokenizer())
    result = evaluated(CachingLM(DummyLM(), AnswerFile(path)), "winogrande", tmp_path, 1, 1)
    ((sample,),) = result["samples"].values()
    assert sample["doc_id"] == 1 and sample["doc"]["option1"] == "Ann"


class Chatting(DummyLM):
    """Behind a service: no tokenizer of its own."""

    tokenizer = None
    tokenizer_name = "service"

    def chat_template(self, chat_template=False):
        return "{{service}}"

    def apply_chat_template(self, chat_history, add_generation_prompt=True):
        return "".join(f"<{message['content']}>" for message in chat_history)


def test_a_model_without_a_tokenizer_chats_as_it_does(path, tmp_path):
    result = evaluated(CachingLM(Chatting(), AnswerFile(path)), "gsm_symbolic", tmp_path, 1, chat_template=True)
    ((sample,),) = result["samples"].values()
    assert sample["arguments"][0][0] == "<Question: What is 0 + 1?\nAnswer:>"
