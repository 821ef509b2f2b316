"""Remembered answers in front of any model of lm-eval: its dummy, its Hugging Face class as it is, and ours."""

import json
import random
import re
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM, CacheHook
from lm_eval.models.dummy import DummyLM
from lm_eval.models.huggingface import HFLM

import tiny
from pruning.core import artifacts
from pruning.core.errors import InputError
from pruning.evaluation import harness, tasks
from pruning.evaluation.answers import AnswerFile, RememberedLM
from pruning.evaluation.backends.hf import HuggingFaceLM
from pruning.evaluation.samples import outcomes
from workspace import ROOT

SHORT = {"until": ["Q", "xx"], "max_gen_toks": 12, "do_sample": False}
TEXTS = ["one", "twenty two", "3", "forty four four", "5 5"]
REQUESTS = {
    "generate_until": [(text, SHORT) for text in TEXTS],
    "loglikelihood": [("What is it?", f" {text}") for text in TEXTS[:3]] + [("a b", " c"), ("", "x")],
    "loglikelihood_rolling": [(text,) for text in TEXTS[:4]] + [("far more than one window " * 30,)],
}
KINDS = list(REQUESTS)


class Counted:
    """A model of lm-eval that counts what it is asked."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen: list[tuple] = []

    def generate_until(self, requests, **options):
        self.seen += [request.args for request in requests]
        return super().generate_until(requests, **options)

    def loglikelihood(self, requests, **options):
        self.seen += [request.args for request in requests]
        return super().loglikelihood(requests, **options)

    def loglikelihood_rolling(self, requests, **options):
        self.seen += [request.args for request in requests]
        return super().loglikelihood_rolling(requests, **options)


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


MODELS = ["dummy", "stock", "ours"]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "answers.jsonl"


def instances(kind: str, arguments: list[tuple] | None = None) -> list[Instance]:
    return [Instance(kind, {}, own, i) for i, own in enumerate(arguments or REQUESTS[kind])]


def ask(lm: LM, kind: str, arguments: list[tuple] | None = None) -> list:
    return getattr(lm, kind)(instances(kind, arguments), disable_tqdm=True)


def assert_same(found: list, expected: list):
    """Texts, or numbers up to the rounding that another batch makes."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert type(one) is type(other)
        assert one == (other if isinstance(other, str) else pytest.approx(other, rel=1e-5))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MODELS)
def test_answers_are_those_of_the_model_alone_and_are_asked_for_once(name, kind, path):
    expected = ask(make(name), kind)
    first = ask(RememberedLM(make(name), AnswerFile(path)), kind)
    assert_same(first, expected)
    assert len({str(answer) for answer in expected}) > (0 if (name, kind) == ("dummy", "generate_until") else 3)
    inner = make(name)
    assert ask(RememberedLM(inner, AnswerFile(path)), kind) == first
    assert inner.seen == []


@pytest.mark.parametrize("kind", KINDS)
def test_ours_answers_as_lm_evals_own_class(kind):
    """Without anything remembered; the last text is longer than the context, and cut into windows."""
    assert_same(ask(make("ours"), kind), ask(make("stock"), kind))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MODELS)
def test_only_what_is_missing_is_asked_and_the_order_is_that_of_the_requests(name, kind, path):
    wanted, before = REQUESTS[kind], REQUESTS[kind][1::2]
    known = ask(RememberedLM(make(name), AnswerFile(path)), kind, before)
    inner = make(name)
    found = ask(RememberedLM(inner, AnswerFile(path)), kind)
    assert inner.seen == wanted[::2]
    assert found[1::2] == known
    if name != "dummy":
        assert_same(found, ask(make(name), kind))


@pytest.mark.parametrize("kind", ["generate_until", "loglikelihood"])
@pytest.mark.parametrize("name", ["stock", "ours"])
def test_a_killed_evaluation_goes_on_without_asking_again(name, kind, path):
    """Killed within a call, in the third batch of one: the two answers given before are on record."""

    def killing(answers: list):
        def add(kind, arguments, response):
            if len(answers) == 2:
                raise KeyboardInterrupt
            answers.append(arguments)

        return SimpleNamespace(add_partial=add)

    killed, answered = RememberedLM(make(name, batch_size=1), AnswerFile(path)), []
    killed.set_cache_hook(killing(answered))
    with pytest.raises(KeyboardInterrupt):
        ask(killed, kind)
    assert len(AnswerFile(path).records) == 3  # the third is recorded before the hook that kills is told
    inner = make(name, batch_size=1)
    found = ask(RememberedLM(inner, AnswerFile(path)), kind)
    assert len(inner.seen) == 2 and not set(map(str, inner.seen)) & set(map(str, answered))
    assert_same(found, ask(make(name, batch_size=1), kind))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MODELS)
def test_what_was_returned_before_a_kill_is_on_record(name, kind, path):
    """Of models, and kinds of requests, whose answers are known only when the call returns."""
    first = ask(RememberedLM(make(name), AnswerFile(path)), kind)
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) == len(first)
    path.write_bytes(b"".join(lines[:3]) + lines[3][:20])
    inner = make(name)
    ask(RememberedLM(inner, AnswerFile(path)), kind)
    assert len(inner.seen) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_altered_on_disk_is_asked_again(kind, path, capsys):
    first = ask(RememberedLM(make("stock"), AnswerFile(path)), kind)
    altered, *others = map(json.loads, path.read_text().splitlines())
    altered["response"] = {"generate_until": "1", "loglikelihood": [0.0, True], "loglikelihood_rolling": 0.0}[kind]
    path.write_text("".join(json.dumps(line) + "\n" for line in (altered, *others)))
    inner = make("stock")
    assert_same(ask(RememberedLM(inner, AnswerFile(path)), kind), first)
    assert len(inner.seen) == 1
    assert "1 of 5 lines broken, altered or foreign" in capsys.readouterr().out


@pytest.mark.parametrize("name", MODELS)
def test_equal_requests_are_asked_once_and_answered_each(name, path):
    inner = make(name)
    same, other = ("What is it?", " this"), ("What is it?", " that")
    found = ask(RememberedLM(inner, AnswerFile(path)), "loglikelihood", [same, same, other, same])
    assert inner.seen == [same, other]
    assert found[0] == found[1] == found[3] != found[2]


def test_no_request_asks_nothing(path):
    for inner in (make("dummy"), make("ours")):
        assert [getattr(RememberedLM(inner, AnswerFile(path)), kind)([]) for kind in KINDS] == [[], [], []]


def test_details_are_recorded_where_a_model_has_them(path, tmp_path):
    ours = AnswerFile(path)
    inner = make("ours")
    ask(RememberedLM(inner, ours), "generate_until")
    assert all(record.keys() == {"response", "tokens", "finish"} for record in ours.records.values())
    ask(RememberedLM(inner, options := AnswerFile(tmp_path / "options.jsonl")), "loglikelihood")
    assert all(record.keys() == {"response"} for record in options.records.values())
    ask(RememberedLM(make("stock"), stock := AnswerFile(tmp_path / "stock.jsonl")), "generate_until")
    assert stock.records == {key: {"response": record["response"]} for key, record in ours.records.items()}


class Odd(DummyLM):
    """What it reports is as told, what it returns is `own`."""

    def __init__(self, *reports: tuple):
        super().__init__()
        self.reports = reports

    def generate_until(self, requests, **options):
        for report in self.reports:
            self.cache_hook.add_partial(*report)
        return ["own" for _ in requests]


def test_an_answer_that_nobody_asked_for_is_not_recorded(path):
    """lm-eval's models report under other kinds and arguments at times."""
    inner = Odd(("greedy_until", ("one", SHORT), "no"), ("generate_until", ("two", SHORT), "no"))
    answers = AnswerFile(path)
    assert ask(RememberedLM(inner, answers), "generate_until", [("one", SHORT)]) == ["own"]
    assert answers.records == {AnswerFile.key("generate_until", ("one", SHORT)): {"response": "own"}}
    assert path.read_bytes().count(b"\n") == 1


def test_what_is_returned_counts_should_it_differ_from_what_was_reported(path):
    inner = Odd(("generate_until", ("one", SHORT), "reported"))
    inner.details = {"tokens": 3}
    assert ask(RememberedLM(inner, AnswerFile(path)), "generate_until", [("one", SHORT)]) == ["own"]
    (record,) = AnswerFile(path).records.values()
    assert record == {"response": "own", "tokens": 3}


def test_an_answer_too_few_is_an_error(path):
    inner = DummyLM()
    inner.generate_until = lambda requests, **_: ["lol"]
    with pytest.raises(ValueError, match="zip"):
        ask(RememberedLM(inner, AnswerFile(path)), "generate_until")


@pytest.mark.parametrize("asked", [{"do_sample": True}, {"temperature": 0.7}, {"temperature": "0.7"}])
@pytest.mark.parametrize("name", MODELS)
def test_sampling_is_refused(name, asked, path):
    with pytest.raises(InputError, match="only greedy answers can be remembered: set `do_sample: false`"):
        ask(RememberedLM(make(name), AnswerFile(path)), "generate_until", [("one", {"until": ["Q"], **asked})])


@pytest.mark.parametrize("asked", [{}, {"temperature": 0.0}, {"do_sample": False, "temperature": 0.7}])
def test_greedy_is_not(asked, path):
    lm = RememberedLM(make("dummy"), AnswerFile(path))
    assert ask(lm, "generate_until", [("one", {"until": ["Q"], **asked})]) == ["lol"]


def test_ours_alone_refuses_what_is_not_greedy():
    for asked in ({"do_sample": True}, {"num_beams": 2}, {"repetion_penalty": 2}):
        with pytest.raises(InputError, match="answers are greedy"):
            ask(
                make("ours"),
                "generate_until",
                [("one", {"until": ["Q"], "max_gen_toks": 3, "do_sample": False, **asked})],
            )


def test_several_processes_are_refused(path):
    inner = DummyLM()
    inner._world_size = 2
    with pytest.raises(ValueError, match="2 processes"):
        RememberedLM(inner, AnswerFile(path))


# all but the answers is the inner model's


def test_everything_that_lm_eval_defines_of_a_model_is_passed_on(path):
    """A later lm-eval with more to ask of a model shows here."""
    names = {name for name in dir(LM) if not name.startswith("_")}
    makers, own = {"create_from_arg_obj", "create_from_arg_string"}, {*KINDS, "set_cache_hook"}
    passed = names - makers - own
    assert {"rank", "world_size", "tokenizer_name", "apply_chat_template", "chat_template", "device"} <= passed
    inner = DummyLM()
    lm = RememberedLM(inner, AnswerFile(path))
    values = {name: object() for name in passed}
    inner.__class__ = type("Other", (DummyLM,), values)
    assert {name: getattr(lm, name) for name in passed} == values


def test_what_a_model_has_of_its_own_is_passed_on_too(path):
    inner = make("stock")
    lm = RememberedLM(inner, AnswerFile(path))
    assert isinstance(lm, LM)
    assert lm.tokenizer is inner.tokenizer and lm.model is inner.model and lm.max_length == 64
    assert lm.get_model_info() == inner.get_model_info() and lm.config is inner.config
    assert not hasattr(lm, "MULTIMODAL")


def test_a_hook_behind_it_is_told_as_well(path):
    told = []
    lm = RememberedLM(make("ours"), AnswerFile(path))
    hook = CacheHook(None)
    hook.add_partial = lambda *report: told.append(report)
    lm.set_cache_hook(hook)
    expected = ask(lm, "loglikelihood")
    assert sorted(told) == sorted(
        ("loglikelihood", arguments, answer)
        for arguments, answer in zip(REQUESTS["loglikelihood"], expected, strict=True)
    )


# out of memory, beyond what test_evaluation.py has of it


@pytest.mark.parametrize("kind", KINDS)
def test_out_of_memory_asks_only_for_what_is_missing(kind):
    """Ours alone, when a first batch has been answered: nothing is remembered but within a call."""
    lm, reported, passes = make("ours", batch_size=2), [], []
    lm.set_cache_hook(SimpleNamespace(add_partial=lambda kind, *report: reported.append(report)))

    def refuse(_, args, kwargs):
        passes.append(len(kwargs["input_ids"]))
        answered = len(passes) > 2 if kind == "loglikelihood_rolling" else len(reported) >= 2
        if answered and passes[-1] > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    lm.model.register_forward_pre_hook(refuse, with_kwargs=True)
    found = ask(lm, kind)
    assert_same(found, ask(make("ours"), kind))
    assert lm.batch_size_per_gpu == 1
    by_request = [next(answer for asked, answer in reported if asked == own) for own in REQUESTS[kind]]
    assert by_request == found and len(reported) == len(found)


# whole evaluations


def records(path, rows: list[dict]) -> str:
    artifacts.write_parquet(path, pd.DataFrame(rows), "dataset", {})
    return str(path)


SUMS = [{"question": f"What is {n} + 1?", "answer": f"{n} + 1 = {n + 1}\n#### {n + 1}"} for n in range(3)]
GAPS = [
    {
        "sentence": "The dog chased the cat because _ was fast.",
        "option1": "the dog",
        "option2": "the cat",
        "answer": "1",
    },
    {"sentence": "Ann thanked Eve, for _ had helped.", "option1": "Ann", "option2": "Eve", "answer": "2"},
]
TASKS = {"gsm_symbolic": (SUMS, ["exact_match,strict-match"]), "winogrande": (GAPS, ["acc"])}


def evaluated(lm: LM, task: str, folder, monkeypatch, limit=None, first=0) -> dict:
    definition = tasks.definition(ROOT / f"config/tasks/{task}.yaml")
    data = records(folder / f"{task}.parquet", TASKS[task][0])
    definition["dataset_kwargs"]["data_files"] = dict.fromkeys(definition["dataset_kwargs"]["data_files"], data)
    return harness.evaluate(lm, definition, limit, first, max_gen_toks=12)


def told(result: dict) -> str:
    """A part of lm-eval's result as text, without the folder that the definition was written to for it."""
    return re.sub(r"/[^\"]*/task.yaml", "", json.dumps(result, default=str, sort_keys=True))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", ["dummy", "stock"])
def test_an_evaluation_is_that_of_the_model_alone(name, task, path, tmp_path, monkeypatch):
    """lm-eval's own models, and (winogrande) a packaged task that names functions."""
    if name == "dummy":
        monkeypatch.setattr(DummyLM, "tokenizer", tiny.tokenizer())  # its own is on the hub
    alone, inner = ((DummyLM() if name == "dummy" else HFLM(tiny.qwen2(), tokenizer=tiny.tokenizer())) for _ in "ab")
    found = evaluated(RememberedLM(inner, answers := AnswerFile(path)), task, tmp_path, monkeypatch)
    expected = evaluated(alone, task, tmp_path, monkeypatch)
    for key in ("results", "configs", "samples", "n-samples"):
        assert told(found[key]) == told(expected[key])
    for key in ("model_num_parameters", "model_dtype"):
        assert found["config"].get(key) == expected["config"].get(key)
    assert found.get("max_length") == expected.get("max_length") == (None if name == "dummy" else 512)
    frame = outcomes(found, answers, TASKS[task][1])
    assert len(frame) == len(TASKS[task][0])
    assert frame["generated_tokens"].isna().all() and frame["finish_reason"].isna().all()
    assert frame["repetition"].isna().all() == (task == "winogrande")


def test_the_first_item_can_be_chosen_of_a_packaged_task(path, tmp_path, monkeypatch):
    """Its name stands in the packaged file alone."""
    monkeypatch.setattr(DummyLM, "tokenizer", tiny.tokenizer())
    result = evaluated(RememberedLM(DummyLM(), AnswerFile(path)), "winogrande", tmp_path, monkeypatch, 1, 1)
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


def test_a_model_without_a_tokenizer_chats_as_it_does(path, tmp_path, monkeypatch):
    definition = tasks.definition(ROOT / "config/tasks/gsm_symbolic.yaml")
    definition["dataset_kwargs"]["data_files"] = {"test": records(tmp_path / "data.parquet", SUMS)}
    result = harness.evaluate(RememberedLM(Chatting(), AnswerFile(path)), definition, 1, chat_template=True)
    ((sample,),) = result["samples"].values()
    assert sample["arguments"][0][0] == "<Question: What is 0 + 1?\nAnswer:>"
