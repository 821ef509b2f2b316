"""What `prune` makes of a user's data, model and results."""

import hashlib
import json
import math
import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from lm_eval.api.metrics import exact_match_hf_evaluate

import tiny
from pruning.command import (
    config_file,
    decision,
    efforts,
    estimate,
    line,
    lm_eval_tasks,
    own_data,
    prune,
    ready,
    right_answers,
    running,
)
from pruning.command.configuration import build, model_section, model_source, parameters_of, text
from pruning.command.known import Known, Own
from pruning.command.request import Request, budget_of, check, numbers
from pruning.config.default import DEFAULT
from pruning.core import artifacts, devices, locks, memory
from pruning.core.errors import InputError
from pruning.core.names import Variant
from pruning.data import datasets
from pruning.models import tokenizers
from pruning.report import catalogue

CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
REFUSING = "{% for m in messages %}{{ '<' + m.content }}{% endfor %}"
REFUSING += "{% if messages[0].role == 'assistant' %}{{ raise_exception('twice') }}{% endif %}"


def read(path: Path, *records: dict, chat: str | None = None) -> list[dict[str, str]]:
    """The prompts and completions of these records, for a model with this chat format."""
    path.write_text("\n\n".join(map(json.dumps, records)))
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = chat
    return own_data.texts(datasets.read_jsonl(path), tokenizer, f"--data {path}")


# data


def said(*roles: str) -> list[dict]:
    return [{"role": role, "content": "hi"} for role in roles]


PAIR = {"question": " 1+1? ", "answer": " 2\n"}
PLAIN = {"prompt": "1+1?\n", "completion": "2", "asked": "1+1?\n", "question": "1+1?", "answer": "2"}
WITH_INPUT = {"prompt": "Add.\n\n1+1?\n", "completion": "2", "asked": "Add.\n\n1+1?\n"}
WITH_INPUT |= {"question": "Add.\n\n1+1?", "answer": "2"}
JOINED = {"prompt": "Q: 1+1\nA:", "completion": " 2"}  # made for it
TURNS = dict.fromkeys(("prompt", "asked"), "<user>hi<assistant>")


@pytest.mark.parametrize(
    ("record", "chat", "found"),
    [
        (PAIR, None, PLAIN),
        (PAIR, CHAT, PLAIN | {"asked": "<user>1+1?<assistant>"}),
        ({"prompt": "1+1?", "completion": "2"}, None, PLAIN),
        (JOINED, CHAT, JOINED | {"asked": JOINED["prompt"], "question": JOINED["prompt"], "answer": "2"}),
        ({"instruction": "Add.", "input": "1+1?", "output": "2"}, None, WITH_INPUT),
        ({"instruction": "1+1?", "input": " ", "output": "2"}, None, PLAIN),
        ({"text": "abc"}, None, {"prompt": "", "completion": "abc"}),
        (
            {"messages": said("user", "assistant")},
            CHAT,
            TURNS | dict.fromkeys(("completion", "question", "answer"), "hi"),
        ),
    ],
)
def test_pairs_texts_and_conversations_become_prompts_and_completions(tmp_path, record, chat, found):
    assert read(tmp_path / "mine.jsonl", record, record, chat=chat) == [found, found]


UNANSWERED = "record 1: `messages` must end in an answer"
NO_CHAT = "record 1: the model's chat format refuses it: "
NONE_FOUND = "its records have a, b; one of these is needed: `messages`, `prompt` and `completion`"


@pytest.mark.parametrize(
    ("records", "chat", "message"),
    [
        ([{"a": 1, "b": "x"}], None, NONE_FOUND),
        ([{"question": "q", "answer": "a"}, {"question": "q"}], None, "record 2 has no text in `answer`"),
        ([{"question": "q", "answer": 3}], None, "record 1 has no text in `answer`, but 3: put it in quotes"),
        ([{"text": " "}], None, "record 1 has no text in `text`"),
        ([{"messages": []}], None, "`messages`, but the model's tokenizer has no chat format"),
        ([{"messages": said("user")}], REFUSING, UNANSWERED),
        ([{"messages": ["user", "assistant"]}], REFUSING, UNANSWERED),
        ([{"messages": said("assistant", "assistant")}], REFUSING, NO_CHAT + "twice"),
        ([{"messages": said("assistant")}], REFUSING, NO_CHAT + "Cannot apply chat template to an empty conversation"),
        (
            [{"messages": [*said("user"), said("assistant")[0] | {"content": 3}]}],
            REFUSING,
            "record 1: the last two of `messages`",
        ),
        (
            [{"messages": [*said("user"), said("assistant")[0] | {"content": "\n"}]}],
            REFUSING,
            "must have text as `content`",
        ),
        (
            [{"messages": [*said("user"), {"role": "assistant", "tool_calls": []}]}],
            REFUSING,
            "must have text as `content`",
        ),
    ],
)
def test_odd_data_are_named(tmp_path, records, chat, message):
    with pytest.raises(InputError, match="mine.jsonl:") as error:
        read(tmp_path / "mine.jsonl", *records, chat=chat)
    assert message in str(error.value)


ODD = {  # content of the file -> what is said of it
    b'{"question": "q"': "mine.jsonl:1: broken JSON",
    b"[1]": "mine.jsonl:1: expected a JSON object, found list",
    b'question,answer\n"a","b"': "(char 0)); JSON Lines hold one JSON object per line",
    b'[{"text": "a"}]': "found list; JSON Lines hold one JSON object per line",
    b"": "mine.jsonl: holds no records",
    b'{"text": "a"}\n{"text": "\\ud83d"}\n': "mine.jsonl:2: half of a character",
    b'{"text": ' + b"[" * 10**5 + b"]" * 10**5 + b"}": "mine.jsonl:1: JSON nested too deeply",
    b'{"text": ' + b"9" * 5000 + b"}": "mine.jsonl:1: broken JSON (Exceeds the limit",
    b'{"text": "a\0b"}': "mine.jsonl:1: broken JSON (Invalid control character",
    b"\0" * 1000: "mine.jsonl:1: broken JSON",
    b'{"text": "caf\xe9"}': "mine.jsonl:1: not UTF-8",
    '{"text": "a"}'.encode("utf-16"): "mine.jsonl:1: not UTF-8",
    b'\xef\xbb\xbf{"text": "a"}': "mine.jsonl:1: broken JSON (Unexpected UTF-8 BOM",
    b'{"text": "' + b"x" * 10**7: "mine.jsonl:1: broken JSON (Unterminated string",
}


@pytest.mark.parametrize("content", ODD, ids=lambda content: repr(content[:20]))
def test_files_that_are_no_json_lines_are_named(tmp_path, content):
    path = tmp_path / "mine.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        datasets.read_jsonl(path)
    assert ODD[content] in str(error.value) and len(str(error.value)) < 500 and "\n" not in str(error.value)


def test_what_is_no_file_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero")):
        with pytest.raises(InputError, match=f"{path}: not a regular file"):
            datasets.read_jsonl(path)
    (tmp_path / "fine.jsonl").write_text('{"text": "\\ud83d\\ude00"}')
    assert datasets.read_jsonl(tmp_path / "fine.jsonl") == [{"text": "😀"}]


@pytest.mark.parametrize("prompt", ["a", "XX", "q3"])
def test_records_that_all_fall_into_one_part_are_refused(prompt):
    share = hashlib.sha256(prompt.encode()).digest()[0] / 256
    lacking = "calibrate on, the part `train`" if share < 0.35 else "choose on, the part `validation`"
    with pytest.raises(InputError, match=f"--data: no records of 9 are left to {lacking} is empty: .* give 50 or more"):
        own_data.split([{"prompt": prompt, "completion": str(n)} for n in range(9)])


def test_equal_prompts_are_in_one_part_and_new_records_move_no_other():
    pairs = [{"prompt": f"p{n % 200}", "completion": str(n)} for n in range(400)]
    parts = own_data.split(pairs)
    assert list(parts) == ["train", "validation", "test"] and sum(map(len, parts.values())) == 400
    shares = {"validation": 0.15, "test": 0.2}.items()
    assert all(0.6 * share < len(parts[name]) / 400 < 1.4 * share for name, share in shares)
    prompts = [{pair["prompt"] for pair in part} for part in parts.values()]
    assert sum(map(len, prompts)) == len(set.union(*prompts)) == 200
    more = own_data.split([*pairs, {"prompt": "new", "completion": "x"}])
    assert {name: [pair for pair in part if pair["prompt"] != "new"] for name, part in more.items()} == parts


def test_a_dataset_without_named_fields_keeps_all_of_them():
    records = [{"a": 1, "b": [2]}, {"a": 3, "b": [4]}]
    assert datasets.adapt(records, None, None, "mine") == records
    assert datasets.adapt(records, None, ["a"], "mine") == [{"a": 1}, {"a": 3}]


# answers that are judged


def parted(*answers: str, prompt: str = "q") -> dict[str, list[dict[str, str]]]:
    """The same questions in all parts."""
    asked = dict.fromkeys(("prompt", "asked"), f"{prompt}{{}}\n") | {"question": f"{prompt}{{}}"}
    pairs = [
        {key: form.format(n) for key, form in asked.items()} | dict.fromkeys(("completion", "answer"), text)
        for n, text in enumerate(answers)
    ]
    return dict.fromkeys(own_data.PARTS, pairs)


def judged(*answers, asked=None, most=100, context=1024, prompt="q", chat=False) -> own_data.Answers | None:
    most = dict.fromkeys(("test", "validation", "train"), most)
    return own_data.answers(parted(*answers, prompt=prompt), asked, most, tiny.tokenizer(), context, chat)


FOUND_IN = [  # --answer, an answer, what is compared
    ("number", "3 + 4 = 7\n#### 7", "7"),
    ("number", "It costs $1,234.50.", "1,234.50"),
    ("number", "From 10-5 we get -5", "-5"),
    ("number", "10-5", "5"),
    ("number", "H2O", None),
    ("number", "1,2,3", "3"),
    ("exact", " Yes, it is. ", "Yes, it is."),
    (r"regex:\((\w)\)", "(A) or (B)", "A"),
    (r"regex:yes|no", "well, no and yes", "no"),
    (r"regex:(a)|(b)", "xb", "b"),
    (r"regex:x(\w*)", "x", None),
]


@pytest.mark.parametrize(("asked", "answer", "found"), FOUND_IN)
def test_what_is_judged_of_an_answer(asked, answer, found):
    assert own_data.judge(asked).found(answer) == found


SAME = [("1,234", "1234", 1), ("42.0", "42", 1), ("42.50", "42.5", 1)]
SAME += [("42.05", "42.5", 0), ("100", "1", 0), ("-5", "5", 0)]


@pytest.mark.parametrize(("one", "other", "same"), SAME)
def test_equal_numbers_are_equal_however_they_are_written(one, other, same):
    [metric] = yaml.safe_load(judged("1").definition("test"))["metric_list"]
    options = {key: metric[key] for key in ("ignore_case", "regexes_to_ignore")}
    assert exact_match_hf_evaluate([one], [other], **options)["exact_match"] == same


def test_answers_are_judged_by_their_numbers_where_all_have_one_at_the_end():
    assert judged("the answer is 7.", "5 km") is None and judged("yes") is None
    found = judged("the answer is 7.", "#### 1,000", "is **5**")
    assert found.judge.name == "number" and found.tokens == 256 and found.notes == []
    assert sorted(each["target"] for each in found.records["test"]) == ["1,000", "5", "7"]
    assert judged("7", "8", "9", most=2).records["test"] == judged("7", "8", "9", most=9).records["test"][:2]
    texts = dict.fromkeys(own_data.PARTS, [{"prompt": "", "completion": "abc 5"}])
    assert own_data.answers(texts, None, {}, tiny.tokenizer(), 512) is None
    with pytest.raises(InputError, match="--answer number: the records hold `text`, no questions with answers"):
        own_data.answers(texts, "number", {}, tiny.tokenizer(), 512)


def test_answers_may_be_twice_as_long_as_the_longest_within_the_context():
    long = "x" * 198 + " 7"
    assert judged(long).tokens == 2 * len(tiny.tokenizer()(long)["input_ids"])
    assert judged(long, context=128).tokens == 64
    with pytest.raises(InputError, match="--answer number: no test question of 1 has it and fits the context of 12 t"):
        judged("7", asked="number", context=12, prompt="a long question ")
    assert judged("7", context=12, prompt="a long question ") is None


def test_what_begins_a_next_record_ends_an_answer_but_in_a_conversation():
    assert judged("7", "8", prompt="Question: ").until == ["\n", "\n\n", "Question:"]
    assert judged("6\n7").until == ["\n\n"]
    assert judged("7", chat=True).until == []


def test_reference_answers_without_what_is_judged_are_counted_and_shown():
    found = judged("is 7", "none", asked="number")
    assert [each["target"] for each in found.records["test"]] == ["7"]
    assert found.notes == ["--answer number: 3 of 6 reference answers do not have it and are not asked, as 'none'."]
    with pytest.raises(InputError, match=r"--answer regex:\(x\): no reference answer has it, the first is 'is 7'"):
        judged("is 7", asked="regex:(x)")


# tasks of lm-eval


def test_tasks_are_the_workflows_own_or_lm_evals_on_data_of_the_hub():
    own, packaged = lm_eval_tasks.asked(["gsm8k", "hellaswag:acc_norm"])
    assert (own.task["metrics"], own.definition, own.dataset) == (["exact_match,strict-match"], None, {})
    assert own.training == "results/data/gsm8k/train.parquet"
    assert packaged.task["metrics"] == ["acc_norm"]
    hub = packaged.dataset["hellaswag"]["hub"]
    assert (hub["repo"], hub["splits"]) == ("Rowan/hellaswag", {"validation": "validation", "train": "train"})
    found = yaml.safe_load(packaged.definition)
    assert found["dataset_kwargs"]["data_files"] == {"validation": "results/data/hellaswag/validation.parquet"}
    assert (found["include"], found["test_split"]) == ("hellaswag/hellaswag.yaml", "validation")


@pytest.mark.parametrize("named", ["gsm8k_cot", "truthfulqa_mc1", "boolq", "minerva_math_algebra"])
def test_a_tasks_own_examples_come_before_those_of_a_split(named):
    [task] = lm_eval_tasks.asked([named])
    assert yaml.safe_load(task.definition)["fewshot_split"] is None


APPLES = {"question": "Ann has 2 apples. How many?", "answer": "She has 2.\n#### 2"}
COOKING = {"activity_label": "Cooking", "ctx_a": "He boils", "ctx_b": "water", "label": "1", "split": "train"}
COOKING |= {"endings": ["and flies.", "and waits.", "c", "d"], "ind": 0, "source_id": "s"}
CUP = {"sentence": "The cup fits the box as _ is small.", "option1": "the cup", "option2": "the box", "answer": "1"}


@pytest.mark.parametrize(
    ("named", "row", "prompt", "completion"),
    [
        ("gsm8k", APPLES, "Question: Ann has 2 apples. How many?\nAnswer:", " She has 2.\n#### 2"),
        ("hellaswag", COOKING, "Cooking: He boils Water", " and waits."),
        ("winogrande", CUP, None, None),
    ],
)
def test_a_tasks_training_data_become_records(tmp_path, named, row, prompt, completion):
    [task] = lm_eval_tasks.asked([named])
    task = task._replace(training=f"results/data/{named}/train.parquet")
    data = tmp_path / task.training
    data.parent.mkdir(parents=True)
    pd.DataFrame([row]).to_parquet(data)
    if task.definition:
        running.put(tmp_path / "config/tasks" / f"{named}.yaml", task.definition)
    refused = "^task winogrande: its items begin with their options, .*: give --data$"
    with nullcontext() if prompt else pytest.raises(InputError, match=refused):
        assert lm_eval_tasks.records(task, tmp_path) == [{"prompt": prompt, "completion": completion}]


def test_without_data_those_of_the_first_task_that_has_some_are_taken():
    none, some = (lm_eval_tasks.Asked(name, {}, training=data) for name, data in (("arc_easy", None), ("gsm8k", "x")))
    assert lm_eval_tasks.with_training_data([none, some]) is some
    for tasks, message in (
        ([none], ": arc_easy has no training data: give JSON Lines"),
        ([], ": give JSON Lines, or a"),
    ):
        with pytest.raises(InputError, match=f"^--data is missing{message}"):
            lm_eval_tasks.with_training_data(tasks)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["gsm8kk"], "--task gsm8kk: lm-eval has no task of this name"),
        (["mmlu"], "--task mmlu: a group of tasks"),
        (["gsm8k:acc"], "--task gsm8k:acc: the task has no metric acc; it has exact_match,strict"),
        (["wikitext"], r"--task wikitext: models are compared by items .* \(word_perplexity"),
        (["gsm8k", "gsm8k"], "--task gsm8k --task gsm8k: a task is named twice"),
    ],
)
def test_tasks_that_cannot_be_asked_are_refused_before_any_job(given, message):
    with pytest.raises(InputError, match=message):
        lm_eval_tasks.asked(given)


@pytest.mark.parametrize("edited", [False, True])
def test_an_edited_configuration_need_not_ask_the_tasks_of_the_command_line(tmp_path, monkeypatch, edited):
    class Fetching(Exception):
        pass

    def fetch(request, what, *targets, config):
        raise Fetching(*targets)

    content = made(methods=["wanda"], path=tmp_path / "m")
    content["models"] = {"m": content["models"]["m"]}
    mine = config_file.Edited(content, validated(content)) if edited else None
    monkeypatch.setattr(ready.config_file, "edited", lambda path: mine)
    monkeypatch.setattr(ready, "run", fetch)
    tiny.save(tiny.llama(), tmp_path / "m")
    (tmp_path / "mine.jsonl").write_text('{"text": "some words"}\n' * 60)
    request = Request(str(tmp_path / "m"), tmp_path / "mine.jsonl", out=tmp_path / "out", tasks=["gsm8k"])
    with pytest.raises(Fetching) as found:
        ready.ready(request)
    assert ("results/m/base/manifest.json" in found.value.args) and any(
        "gsm8k" in each for each in found.value.args
    ) != edited


# the configuration


def known(
    train: int = 9000,
    test: int = 3000,
    context: int = 512,
    gpus: int = 0,
    path: Path | str = "/m",
    validation: int | None = None,
    methods: Sequence[str] | dict = ("agf",),
    **given: Any,
) -> Known:
    """given: more of it, and fields of the request."""
    own = {key: given.pop(key) for key in ("tasks", "answers", "own", "mine", "trained") if key in given}
    section = model_section("m", {"kind": "local", "path": str(path)}, 10**6, gpus, threads=2)
    tokens = {"train": train, "validation": validation or test, "test": test}
    each = 1 if given.pop("digits", False) else 4
    size = {part: count * each for part, count in tokens.items()}
    named = methods if isinstance(methods, dict) else dict.fromkeys(methods)
    return Known(Request("m", **given), section, context=context, tokens=tokens, bytes=size, methods=named, **own)


def made(sparsities: Sequence[int] | dict[str, int] = (20,), **given: Any) -> dict:
    return build(known(**given), sparsities)


def validated(content: dict):
    """As it is written and read by the workflow."""
    return config_file.whole(yaml.safe_load(text(content, "prune …")))


def test_a_model_has_one_path_wherever_prune_is_called(tmp_path, monkeypatch):
    for folder in ("models/small", "work"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "linked").symlink_to(tmp_path / "models")
    (tmp_path / "models/x.gguf").symlink_to(tmp_path / "blob")
    (tmp_path / "blob").touch()
    monkeypatch.chdir(tmp_path / "work")
    for place in ("../models/x.gguf", "../linked/x.gguf", "../work/../models/x.gguf"):
        assert model_source(place)[1]["path"] == str(tmp_path / "models/x.gguf")
    for place in ("../models/small", "../linked/small", "../work/../models/small"):
        assert model_source(place) == ("small", {"kind": "local", "path": str(tmp_path / "models/small")})
    monkeypatch.chdir(tmp_path / "models/small")
    assert model_source(".") == ("small", {"kind": "local", "path": str(tmp_path / "models/small")})


def test_models_are_folders_files_packages_and_repositories(tmp_path):
    (tmp_path / "My Model.v2").mkdir()
    alias, source = model_source(str(tmp_path / "My Model.v2"))
    assert (alias, source["kind"]) == ("my_model_v2", "local")
    gguf = {"kind": "gguf", "package": "pkg", "path": "dir/X.Q4_1.gguf"}
    assert model_source("pkg:dir/X.Q4_1.gguf") == ("x_q4_1", gguf)
    (tmp_path / "of: me.gguf").touch()
    there = {"kind": "gguf", "path": str(tmp_path / "of: me.gguf")}  # a colon does not make a package of a file
    assert model_source(str(tmp_path / "of: me.gguf")) == ("of_me", there)
    hub = {"kind": "hub", "repo": "Qwen/Qwen2.5-7B", "revision": "a" * 40}
    assert model_source("Qwen/Qwen2.5-7B@" + "a" * 40)[1] == hub
    for name in ("nothing", "none.gguf", "a/b/c", "./missing"):
        with pytest.raises(InputError, match=name):
            model_source(name)


ONE = judged("1")
RIGHT = {"answers": ONE, "own": Own(1)}
TOKENS = {"train": 9000, "validation": 2600, "test": 10**6}
OWN = Own(80, TOKENS, longest={"token": 600, "byte": 2000})
FEW = {"answers": judged(*map(str, range(100)))}
SHOWN = ["own_right_answers", "own", "own_answers"]
GSM8K = lm_eval_tasks.asked(["gsm8k"])
LARGE = {"train": 10**6, "test": 10**6, "context": 4096}
CONFIGURED = [  # what is asked for and known, and what of the configuration follows
    (
        {"methods": ["agf", "rku"]},
        # 40 windows of 64 in 3,000 tokens, none of 128
        "tasks: {own: {seqlen: 64, divergence: true}, own_validation: {seqlen: 64, split: validation}}",
        "calibrations: {own: {samples: 17, sequence_length: 512, rounds: [20, 40, 50, 60, 70, 80]}}",  # the default's
        "tables: {table1: {tasks: [own], reference: dense}}",
        "experiment: {methods: [agf, rku], reference: agf}",
        "tables: {methods: {tasks: [own], reference: null, sparsities: [20]}}",
    ),
    (
        {"methods": ["agf", "rku"], "against": ["f16"]},
        "tables: {table1: {quantised: [f16]}, methods: {quantised: []}}",
    ),
    (
        {"methods": ["agf", "rku"], "budget": ["bytes=9MB"], "sparsities": {"agf": 20, "rku": 30}},
        "tables: {table1: {sparsities: null, at: {agf: 20, rku: 30}}}",
    ),
    ({"train": 2000, "context": 4096}, "calibrations: {own: {samples: 5, sequence_length: 400}}"),
    ({"train": 7}, "calibrations: {own: {samples: 3, sequence_length: 2}}"),
    (LARGE, "calibrations: {own: {samples: 40}}", "tasks: {own: {seqlen: 256, tokens: 20480}}"),
    (LARGE | {"tokens": 153600}, "calibrations: {own: {samples: 300, gradient_samples: 20}}"),  # --tokens
    (LARGE | {"tokens": 5120}, "calibrations: {own: {samples: 10, gradient_samples: 5}}"),
    (LARGE | {"gpus": 1}, "calibrations: {own: {samples: 512}}", "tasks: {own: {seqlen: 2048, tokens: 262144}}"),
    (
        {"vocabulary": "30%"},  # 4 bytes a token
        "tasks: {own: {per: byte, seqlen: 256, tokens: 12000, divergence: false}, own_validation: {per: byte}}",
    ),
    (
        {"vocabulary": "30%", "digits": True},  # 1
        "tasks: {own: {per: byte, seqlen: 64, tokens: 3000}, own_validation: {per: byte, seqlen: 64}}",
    ),
    ({"rounds": 3}, "calibrations: {own: {rounds: [10, 20]}}"),  # of 30
    ({"rounds": 3, "sparsity": "1"}, "calibrations: {own: {rounds: [1]}}"),
    ({"rounds": 2, "budget": ["bytes=9MB"]}, "calibrations: {own: {rounds: [40]}}"),
    *(
        (
            {"recover": recover, "steps": 7, "answers": ONE},
            f"tunings: {{own: {{objective: {objective}, steps: 7, answers: null, micro_batch: 1}}}}",
            "tables: {table1: {tasks: [own, own_answers, own@own, own_answers@own]}}",
            "tables: {validation: {tasks: [own_validation, own_validation@own]}}",
        )
        for recover, objective in (("distill", "distillation"), ("lora", "cross_entropy"))
    ),
    (
        {"recover": "distill", **RIGHT},
        "calibrations: {own: {answers: own_answers_train}}",
        "tunings: {own: {answers: own_answers_train, steps: 150}}",
        "tasks: {own_validation: {answers: own_answers_validation}, own: {answers: null, divergence: false}}",
        "tasks: {own_right_answers: {answers: own_answers, divergence: true}, own_answers_train: {kind: lm_eval}}",
        f"tables: {{table1: {{tasks: [{', '.join([*SHOWN, *(f'{name}@own' for name in SHOWN)])}]}}}}",
        "experiment: {together: [[own_right_answers, own, own_validation]]}",  # after the dense one answered
    ),
    ({"recover": "lora", **RIGHT}, "tunings: {own: {answers: null}}"),  # LoRA's text is the data's
    *(
        (
            {"recover": "distill", "answers": ONE, "own": own},
            "calibrations: {own: {answers: null}}",
            "tunings: {own: {answers: null}}",
            "tasks: {own: {divergence: true}, own_answers_train: null}",
        )
        for own in (None, Own(50, {}))  # the effort's are the data's, or too few are right
    ),
    (  # texts of own answers are cut to what there is
        {
            "train": 10**5,
            "test": 10**5,
            "context": 1024,
            "answers": ONE,
            "own": OWN,
        },
        "tasks: {own_validation: {seqlen: 600, tokens: 2600}, own_right_answers: {seqlen: 600, tokens: 20480}}",
        "tasks: {own_validation: {prompt: '{prompt}', text: '{completion}', per: null, split: validation}}",
        "tasks: {own: {seqlen: 256, tokens: 20480}, own_answers_validation: {limit: 1}}",
        "calibrations: {own: {samples: 17}}",
    ),
    ({"context": 512, "answers": ONE, "own": OWN}, "tasks: {own_validation: {seqlen: 512}}"),
    (
        {"test": 10**5, "vocabulary": "30%", "answers": ONE, "own": OWN},
        "tasks: {own_validation: {seqlen: 510, tokens: 10400, per: byte}, own_right_answers: {per: byte}}",
    ),
    ({**FEW, "own": Own(50, {}, rare=True)}, "tasks: {own_answers: {limit: 20}}"),  # they tell no models apart
    ({**FEW, "own": Own(50, {}, rare=True), "gpus": 1}, "tasks: {own_answers: {limit: 80}}"),
    ({**FEW, "own": Own(50, {}, rare=True), "questions": 70}, "tasks: {own_answers: {limit: 100}}"),
    ({**FEW, "own": Own(50, {}, rare=False)}, "tasks: {own_answers: {limit: 100}}"),
    (
        {"answers": ONE, "tasks": GSM8K},
        "experiment: {together: [[own, own_validation, own_answers, gsm8k]]}",  # in one job with the texts
        "tasks: {gsm8k: {limit: 200}, own_answers: {metrics: ['exact_match,judged'], limit: 1, max_gen_toks: 256}}",
        "tables: {table1: {tasks: [own, own_answers, gsm8k]}}",
    ),
]


@pytest.mark.parametrize("case", CONFIGURED)
def test_what_is_asked_for_becomes_a_valid_configuration(case):
    given, *wanted = case
    config = validated(made(**given))
    several = ["methods"] * (len(given.get("methods", ())) > 1 and "budget" not in given)
    assert [name for name, table in config.tables.items() if table] == ["table1", "validation", *several]
    for each in map(yaml.safe_load, wanted):
        assert part(config.model_dump(), each) == each


def part(value: Any, wanted: Any) -> Any:
    """Of a configuration, the keys that are wanted."""
    if not isinstance(value, dict) or not isinstance(wanted, dict):
        return value
    return {key: part(value.get(key), own) for key, own in wanted.items()}


@pytest.mark.parametrize(
    ("options", "said"),
    [({"rounds": 2}, "--rounds"), ({"budget": ["decode_ms=50%"]}, "--budget decode_ms")],
)
def test_what_a_mixture_of_experts_has_not_is_refused(options, said):
    with pytest.raises(InputError, match=f"^{said}: the model is a mixture of experts"):
        ready.for_mixture(known(**options))


@pytest.mark.parametrize(
    ("methods", "trained", "units"),
    [
        (["narrow_wanda"], None, "FFN neurons"),  # the model is dense
        (["taylor_fo", "frequency"], [], "experts"),
        (["narrow_wanda"], [], "neurons inside experts"),
        (["frequency", "narrow_wanda"], [], "experts, or neurons inside them,"),
    ],
)
def test_what_sparsity_counts_is_said(methods, trained, units):
    assert known(methods=methods, trained=trained).units == units


@pytest.mark.parametrize(
    ("parameters", "times", "fast", "has_gb", "dtype", "memory_gb"),
    [
        (1_500_000_000, 1, True, 24, "bfloat16", 8),
        (1_500_000_000, 4, False, 20, "float32", 14),
        (1_500_000_000, 4, False, 19, "bfloat16", 8),
        (1_500_000_000, 100, False, 19, "float32", 14),
        (1_500_000_000, 1, False, 24, "float32", 14),  # a CPU that says nothing of itself
        (135_000_000, 1, True, 24, "bfloat16", 3),
        (4_000_000, 1, True, 24, "float32", 2),
    ],
)
def test_bfloat16_is_for_a_cpu_that_has_instructions_for_it_and_for_what_does_not_fit_in_float32(
    monkeypatch, parameters, times, fast, has_gb, dtype, memory_gb
):
    monkeypatch.setattr(devices, "slow_dtypes", lambda: {"bfloat16": times} if times > 1 else {})
    monkeypatch.setattr(devices, "multiplies_bfloat16", lambda: fast)
    monkeypatch.setattr(memory, "physical", lambda: has_gb * 10**9)
    model = model_section("m", {"kind": "local", "path": "x"}, parameters, gpus=0, threads=2)["m"]
    assert (model["dtype"], model["memory_gb"]) == (dtype, memory_gb)
    source = model_section("m", {"kind": "gguf", "path": "x"}, parameters, gpus=0, threads=2)["m"]["source"]
    assert source.get("dtype", "float32") == dtype  # stored in what is computed in


def test_a_models_size_is_known_before_it_is_fetched(tmp_path):
    """Without, a first run of a model larger than `memory_gb`'s least is refused."""
    model = tiny.llama(tie_word_embeddings=True)
    tiny.save(model, tmp_path / "m")
    file = tiny.gguf(model, tmp_path / "m.gguf")
    for name, base in ((tmp_path / "m", "none"), (file, "none"), ("org/name", "m")):
        _, source = model_source(str(name))
        assert parameters_of(source, tmp_path / base) == model.num_parameters()
    assert parameters_of(source, tmp_path / "none") is None


@pytest.mark.parametrize("package", ["no_such", "no.such", "./no", "json.tool"])  # the last is no folder
def test_a_package_that_is_not_there_is_named(tmp_path, package):
    _, source = model_source(f"{package}:x.gguf")
    with pytest.raises(InputError, match=f"Python package '{package}' is not installed"):
        parameters_of(source, tmp_path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"test": 1279}, "1279 tokens are left to choose on, 1280 are needed: give at least 1.0 times as many"),
        ({"validation": 2000, "test": 640}, "640 tokens are left to test on, 1280 are needed: give at least 2.0 times"),
        ({"test": 9000, "context": 8}, "its context of 8 tokens is shorter than 32, the least to test on"),
    ],
)
def test_too_little_to_test_on_is_said_with_what_is_needed(given, message):
    with pytest.raises(InputError, match=message):
        made(**given)
    speed = made(test=1280, context=32)["tradeoff"]
    assert speed["prompt_tokens"] + speed["decode_tokens"] <= 32


# the configuration, edited


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "prune.yaml"
    path.write_text(config_file.signed(text(made(), "prune …")))
    return path


def test_a_file_as_it_was_written_is_not_edited(written, tmp_path):
    assert config_file.edited(written) is None and config_file.edited(tmp_path / "none.yaml") is None
    assert yaml.safe_load(written.read_text()) == made()


def test_a_command_of_several_lines_is_one_comment(written):
    command = "prune m --answer 'regex:ä\n\x85b'"
    written.write_text(config_file.signed(text(made(), command)))
    assert yaml.safe_load(written.read_text()) == made()
    assert written.read_text().splitlines()[0] == r"# Written by: prune m --answer 'regex:ä\n\x85b'"


def test_what_was_edited_is_used_and_told_by_its_keys(written):
    changed = written.read_text().replace("memory_gb: 2", "memory_gb: 7").replace("micro_batch: 4", "seed: 5")
    written.write_text(changed.replace("- 20", "- 40"))
    content, config = config_file.edited(written)
    assert config.models["m"].memory_gb == 7 and config.table("table1").sparsities == [40]
    assert list(config_file.differences(content, made())) == [
        "models.m.memory_gb: 7 (by the command line: 2)",
        "calibrations.own.seed: 5 (the command line says nothing of it)",
        "calibrations.own.micro_batch: left out (by the command line: 4)",
        "tables.table1.sparsities: [40] (by the command line: [20])",
        "tables.validation.sparsities: [40] (by the command line: [20])",
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("memory_gb:", "memory:", "prune.yaml: models.m.memory: unknown key"),
        ("models:", "modles: {}\nmodels:", "prune.yaml: modles: unknown key"),
        ("micro_batch: 4", "micro_batch: yes", "prune.yaml: calibrations.own.micro_batch: a number is needed"),
        ("micro_batch: 4", "samples: 1", r"prune.yaml:\d+: calibrations.own.samples: this key stands twice"),
        ("# Written", "tables: &a [*a]\n# Written", "prune.yaml:1: tables: the alias"),
        ("  table1:", "  mine:", "prune.yaml: tables.table1: missing"),
        ("  validation:\n    title", "  mine:\n    title", "prune.yaml: tables.validation: missing"),
        ("    - 20\n", "    - 20\n    - 40\n", "prune.yaml: tables.validation: lacks agf at 40%, which table1 has"),
        (
            "    - own_validation\n    paper",
            "    - own\n    - own_validation\n    paper",
            "prune.yaml: tables.validation.tasks",
        ),
        (
            "    - own_validation\n    paper",
            "    - gsm_symbolic\n    paper",
            "prune.yaml: tables.validation.tasks: models",
        ),
        ("    tasks:\n    - own\n", "    tasks:\n    - gsm_symbolic\n", "prune.yaml: tables.table1.tasks: no text, by"),
        ("  models:\n  - m\n", "  models:\n  - m\n  - tiny-reasoner\n", "experiment.models: one model is shown: name"),
        ("experiment:\n", "experiment:\n  name: x\n", "prune.yaml: experiment.name: results are read without"),
        ("reference: dense", "reference: agf", "prune.yaml: tables.table1.reference: the page compares with `dense`"),
        (
            "    - own\n    paper",
            "    - own\n    - own@arithmetic\n    paper",
            "prune.yaml: tables.validation.tasks: lacks own_validation@arithmetic: every",
        ),
        (
            "    - own\n    paper",
            "    - own\n    - gsm_symbolic@arithmetic\n    paper",
            "prune.yaml: tables.table1.tasks: lacks gsm_symbolic: every model of table1 is evaluated on every task",
        ),
    ],
)
def test_mistakes_in_an_edited_file_are_named(written, old, new, message):
    assert old in written.read_text()
    written.write_text(written.read_text().replace(old, new, 1))
    with pytest.raises(InputError, match=message) as error:
        config_file.edited(written)
    assert "\n" not in str(error.value)


def test_what_the_page_reads_is_not_left_out(tmp_path):
    about = known(against=["q8_0", "Small"], methods={"agf": DEFAULT.method("agf").model_copy(update={"round_to": 32})})
    about = replace(about, smaller={"small": about.model["m"] | {"source": {"kind": "local", "path": "Small"}}})
    path = tmp_path / "prune.yaml"
    for change, said in (
        (lambda content: content.update(tradeoff=None), "tradeoff: size and speed are shown"),
        (
            lambda content: content["tables"]["smaller"].update(sparsities=[30]),
            "tables.smaller: lacks agf at 20%, which table1 has: every model of table1 may be taken",
        ),
    ):
        content = build(about, [20])
        path.write_text(text(content, "me"))
        assert config_file.edited(path)
        change(content)
        path.write_text(text(content, "me"))
        with pytest.raises(InputError, match=said):
            config_file.edited(path)


def test_methods_of_an_edited_file_may_be_compared(tmp_path, monkeypatch):
    content = made(methods={"mine": DEFAULT.method("wanda")})
    (tmp_path / "prune.yaml").write_text(text(content, "me"))
    mine = config_file.edited(tmp_path / "prune.yaml")
    monkeypatch.setattr(efforts, "needs", lambda *given, **named: efforts.Needs(0, 0))
    about = known(10**6, methods=["mine"], out=tmp_path, mine=mine)
    found = ready.with_methods(
        replace(about, request=replace(about.request, methods=("mine", "wanda"))), {"model_type": "llama"}, 48
    )
    assert found.methods["wanda"] is None and found.methods["mine"].score == "wanda"
    (tmp_path / "mine.jsonl").write_text('{"text": "a"}\n')
    for out in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match="^--methods: unknown name 'mien'"):
            ready.ready(Request("x/m", tmp_path / "mine.jsonl", out=out, methods=("mien",)))


def test_an_edited_file_is_read_where_its_models_lie(tmp_path):
    """Fewer experts of a width that no type's blocks divide."""
    base = tmp_path / "results/m/base"
    base.mkdir(parents=True)
    (base / "config.json").write_text('{"model_type": "mixtral"}')
    about = known(methods=["taylor_fo"], against=["q8_0"], trained=["q_proj"])
    hub = {"m": about.model["m"] | {"source": {"kind": "hub", "repo": "x/m", "revision": "main"}}}
    (tmp_path / "prune.yaml").write_text(text(build(replace(about, model=hub), [20]), "me"))
    assert config_file.edited(tmp_path / "prune.yaml").config.table("table1").quantised == ["q8_0"]


# the command line

NINE = ["bytes=9MB"]
NO_SIZE, ROUNDS = "give a number of tokens, or a share", "only for --effort standard and thorough, without --methods"
MISTAKES = [  # options, and the words that follow the first of them
    *(({"answer": text}, "") for text in ("numbers", "regex", "regex:", "exact:x", "regex:(")),
    *(({"recover": "x"}, ""), ({"steps": 9}, "only for --recover")),
    *(({"tolerance": share}, "give 0 to ") for share in (10, -0.1, float("nan"), "10")),
    *(({name: 0}, "give a whole number, ") for name in ("cores", "steps", "rounds", "questions", "tokens")),
    *(({"cores": 1.5}, "give a whole number, 1"), ({"questions": "9"}, "give a whole number, 1")),
    *(({"vocabulary": text}, NO_SIZE) for text in ("0", "120%", "many", "-3", "3.5")),
    ({"vocabulary": "30%,all"}, "several sizes are compared at equal cost: give --budget as well"),
    ({"vocabulary": "all", "budget": NINE}, "give one size or different ones, of which one may be all"),
    ({"vocabulary": "30%,30%", "budget": NINE}, "give one size or different ones"),
    ({"vocabulary": "30%,", "budget": NINE}, NO_SIZE),
    *(({"rounds": 3, **given}, ROUNDS) for given in ({"effort": "quick"}, {"methods": ["wanda"]})),
    *(({"sparsity": text}, "whole per cent") for text in ("0", "100", "0.3", "20;30", "-5")),
    ({"budget": ["parameters=1B", "bytes=1GB"]}, "one budget at a time"),
    ({"budget": ["parameters=1B,bytes=1GB"]}, "one budget at a time"),
    ({"budget": ["1.2B"]}, "no budget '1.2B'; give one of parameters=…, bytes=…, prefill_ms=…, decode_ms=…"),
    ({"budget": ["flops=9"]}, "no budget 'flops'; give one of"),
    ({"budget": ["bytes=many"]}, "bytes: 'many' is not an amount"),
    ({"budget": ["bytes=9XB"]}, "bytes: unknown unit 'XB'"),
    ({"budget": ["decode_ms="]}, "decode_ms: '' is not an amount"),
]


@pytest.mark.parametrize(("options", "message"), MISTAKES)
def test_what_no_run_could_do_is_said(options, message):
    option, given = next(iter(options.items()))
    with pytest.raises(InputError) as error:
        check(Request("m", **options))
    shown = " ".join(given) if isinstance(given, list) else given
    assert str(error.value).startswith(f"--{option} {shown}: {message}")


def test_sparsities_budgets_and_sizes_are_read():
    assert numbers("30, 20,30") == [20, 30] and numbers("0,20", 0) == [0, 20]
    assert budget_of([]) == {} and budget_of(["bytes=9 MB"]) == {"bytes": "9 MB"}
    check(Request("m", vocabulary="16000,all,30%", budget=NINE))
    with pytest.raises(InputError, match="--sparsity : whole per cent"):
        numbers("")
    with pytest.raises(InputError, match="--budget and --sparsity 20: the budget says how much is pruned"):
        check(Request("m", sparsity="20", budget=NINE))


def test_a_budget_is_looked_for_before_there_is_a_table():
    before, after = (
        validated(made(sparsities, methods=["agf", "rku"], recover="lora", budget=["prefill_ms=70%"]))
        for sparsities in ([], {"agf": 31, "rku": 33})
    )
    assert not any(before.tables.values()) and not catalogue.timed(before)
    asked = after.budgets["asked"]
    assert (asked.kind, asked.text, asked.prompt_tokens) == ("prefill_ms", "70%", after.tradeoff.prompt_tokens)
    assert before.budgets == after.budgets
    names = [f"own/{variant}" for variant in ("agf/31", "agf/31/own", "rku/33", "rku/33/own")]
    assert sorted(map(str, catalogue.timed(after)["m"])) == ["dense", *names]


# the decision

COLUMNS = ["calib", "method", "sparsity", "tuning", "value", "ci_low", "ci_high", "p_holm"]


def models(
    *rows, validation=(), answers=(), said=(), metric="perplexity", chosen_by=None
) -> tuple[pd.DataFrame, list[decision.Measure]]:
    """The dense model, of perplexity 10, and others. validation: their perplexities there, if others; answers: shares
    of 10 questions that all of them answer right; said: perplexities of right answers; chosen_by: validation.csv."""
    dense = ("", "dense", 0, None, 10.0, 9.5, 10.5, np.nan)
    table = pd.DataFrame([dense, *rows], columns=COLUMNS).assign(task="own", metric=metric, n=99, cut_off=np.nan)
    table["achieved_sparsity"] = table["sparsity"]
    if chosen_by is None:
        chosen_by = table.assign(value=[10.0, *validation]) if validation else table
    parts = [table, table.assign(metric="kl", value=[0.0, *[0.25] * len(rows)], ci_low=0.0, ci_high=0.5, p_holm=np.nan)]
    if answers:
        own = {"task": "own_answers", "metric": "exact_match,judged", "value": answers, "n": 10, "cut_off": 0.5}
        parts.append(table.assign(**own, ci_low=0.1, ci_high=0.9))
    if said:
        parts = [parts[0], *(part.assign(task="own_right_answers") for part in parts)]
        parts[1] = parts[1].assign(value=said)
    measured = table[["calib", "method", "sparsity", "tuning"]].assign(bytes=2e6 * (1 - table["sparsity"]))
    for part, speed in {"prefill": 1.3, "decode": 1.2}.items():
        for end, least in {"": 0, "_low": 0.1, "_high": -0.1}.items():
            measured[f"{part}_speedup{end}"] = [1.0, *[speed - least] * len(rows)]
    marks = dict.fromkeys(("size_front", "prefill_front"), "behind")
    tradeoff = measured.assign(**marks, decode_front=["front", *["near"] * len(rows)])
    everything = pd.concat(parts, ignore_index=True)
    shown = decision.measures(everything)
    return decision.rows(everything, chosen_by, tradeoff, shown), shown


def row(method, sparsity, value, tuning=None, p=np.nan):
    return ("own", method, sparsity / 100, tuning, value, value - 1, value + 1, p)


FOUR = [row("agf", 20, 10.1), row("agf", 30, 10.9), row("rku", 30, 10.8), row("agf", 40, 12.0)]
TWO = [row("wanda", 31, 10.2), row("agf", 34, 10.8)]


@pytest.mark.parametrize(
    ("pruned", "tolerance", "equal_cost", "taken", "loss"),
    [
        (FOUR, 0.1, False, "rku/30", 0.08),  # the smallest within the tolerance
        (FOUR, 0.001, False, "agf/20", 0.01),  # the nearest
        (FOUR, 9, False, "agf/40", 0.2),
        ([row("agf", 20, 10.1), row("agf", 30, 12.5)], 0.25, False, "agf/30", 0.25),  # the tolerance itself
        ([row("agf", 30, 12.0), row("agf", 30, 10.2, tuning="own")], 0.1, False, "agf/30/own", 0.02),
        (TWO, 0.1, False, "agf/34", 0.08),
        (TWO, 0.1, True, "wanda/31", 0.02),  # the best, however much is removed
        (TWO, 0.01, True, "wanda/31", 0.02),
    ],
)
def test_the_model_to_take_is_the_smallest_within_the_tolerance_or_at_equal_cost_the_best(
    pruned, tolerance, equal_cost, taken, loss
):
    choice = decision.choose(models(*pruned)[0], tolerance, equal_cost)
    assert choice == (Variant.parse(f"own/{taken}"), loss <= tolerance, pytest.approx(loss))


def test_right_answers_and_the_datas_text_are_told_apart_and_losses_are_of_what_choices_are_made_by():
    found, shown = models(row("agf", 30, 14.0), validation=[5.0 * 2.2], said=[5.0, 5.5])
    wanted = ["perplexity of your data", "perplexity of right answers", "KL to dense"]
    assert [each.title for each in shown] == wanted
    assert found["perplexity"].tolist() == [5.0, 5.5] and found["data_perplexity"].tolist() == [10.0, 14.0]
    assert found["test_loss"].tolist() == pytest.approx([0, 0.1]) and found["loss"].tolist() == pytest.approx([0, 0.1])


def test_choices_are_made_on_other_data_than_numbers_are_shown_of():
    found = models(row("agf", 30, 12.0), row("rku", 30, 10.1), validation=[10.4, 10.5])
    choice = decision.choose(found[0], 0.1)
    assert str(choice.variant) == "own/agf/30" and choice.loss == pytest.approx(0.04)
    taken = found[0].set_index("variant").loc[choice.variant]
    assert (taken["perplexity"], taken["test_loss"]) == (12.0, pytest.approx(0.2))
    assert [taken[f"prefill{end}"] for end in ("", "_low", "_high")] == pytest.approx([1.3, 1.2, 1.4])


def test_models_of_other_tokenizers_are_chosen_by_bits_per_byte_as_perplexity_of_four_of_them():
    pruned = (row("agf", sparsity, value) for sparsity, value in ((0, 10.01), (30, 10.03), (40, 10.04)))
    found, (measure, _) = models(*pruned, metric="bits_per_byte")
    assert (measure.key, measure.title, measure.better) == ("bits_per_byte", "bits per byte", "lower")
    assert found["test_loss"].tolist() == pytest.approx([0, 2**0.04 - 1, 2**0.12 - 1, 2**0.16 - 1])
    assert str(decision.choose(found, 0.1).variant) == "own/agf/30"


def test_divergences_of_the_validation_text_choose_nothing():
    rows = [("", "dense", 0, None, 5.0), ("own", "agf", 0.3, None, 5.5)]
    chosen_by = pd.DataFrame(rows, columns=COLUMNS[:5])
    both = pd.concat([chosen_by.assign(metric="perplexity"), chosen_by.assign(metric="kl", value=[0, 9])])
    assert models(row("agf", 30, 14.0), chosen_by=both)[0]["loss"].tolist() == pytest.approx([0, 0.1])


def test_every_measure_has_its_columns():
    found, shown = models(row("agf", 30, 12.0, p=0.01), answers=[0.6, 0.4])
    wanted = [("perplexity", "lower"), ("kl", "lower"), ("answers", "higher"), ("cut_off", "lower")]
    assert [(each.key, each.better) for each in shown] == wanted
    dense, agf = found.to_dict("records")
    assert (dense["kl"], agf["kl"], agf["kl_low"], agf["answers"], agf["cut_off"]) == (0, 0.25, 0, 0.4, 0.5)
    assert agf["perplexity_p"] == agf["answers_p"] == 0.01 and pd.isna([agf["kl_p"], agf["cut_off_p"]]).all()
    assert (agf["cut_off_low"], agf["cut_off_high"]) == pytest.approx((0.2366, 0.7634), abs=1e-4)  # Wilson, 5 of 10


def test_a_further_text_has_a_column_of_its_own():
    """As one that somebody wrote into the configuration."""
    table = pd.DataFrame(
        {"task": ["own", "own", "wiki", "wiki"], "metric": ["perplexity", "kl"] * 2, "cut_off": np.nan}
    )
    wanted = [("perplexity", "perplexity"), ("kl", "KL to dense")]
    wanted += [("wiki perplexity", "perplexity of wiki"), ("wiki kl", "KL to dense of wiki")]
    assert [(each.key, each.title) for each in decision.measures(table)] == wanted


def test_answers_of_the_dense_model_without_what_is_judged_are_counted_and_shown():
    samples = pd.DataFrame({"prediction": ["7", "[invalid]"], "response": ["is 7", "x" * 90 + "!"]})
    wanted = "--answer number: 1 of 2 answers of the dense model do not have it, as '" + "x" * 79 + "!'."
    assert decision.without_answer(samples, "number") == [wanted] and not decision.without_answer(samples[:1], "number")


def test_a_job_that_nothing_can_run_beside_has_all_cores_and_jobs_at_once_fit_in_the_memory(monkeypatch, tmp_path):
    said = []
    monkeypatch.setattr(running.memory, "physical", lambda: 24e9)
    monkeypatch.setattr(running.workflow, "events", lambda given, log: said.append(dict(pairwise(given))) or [])
    for alone in (None, "evaluate"):
        running.run(Request("m", out=tmp_path, cores=3), "answering", "target", alone=alone)
    assert [each.get("--set-threads") for each in said] == [None, "evaluate=3"]
    assert [(each["--cores"], each["--resources"]) for each in said] == [("3", "mem_mb=24000")] * 2


class Answering:
    """A dense model of which every `every`-th answer is right, and the first `cut_off` are cut off. An answer and its
    question are 200 tokens, or twice as many as `letters`, as each is one."""

    bos_token, eos_token_id = "", 0

    def __init__(self, monkeypatch, out, every: int, cut_off: int = 0, letters: int = 100):
        self.asked, self.out, self.every, self.cut_off, self.letters = [], out, every, cut_off, letters
        monkeypatch.setattr(right_answers, "run", self.run)
        monkeypatch.setattr(tokenizers, "load", lambda folder: self)

    def __call__(self, text, add_special_tokens):
        return {"input_ids": list(text)}

    def run(self, request, what, *paths, config, alone):
        others = [path for path in paths[1:] if not (self.out / path).is_file()]
        assert alone == (None if others else "evaluate")  # it has all cores
        tasks = yaml.safe_load((self.out / config).read_text())["tasks"]
        for path in paths:
            limit = tasks[name := Path(path).name.partition(".")[0]]["limit"]
            self.asked.append((name.removeprefix("own_answers_"), limit))
            numbers = range(limit)
            rows = {"item": numbers, "prompt": "q" * (self.letters - 1), "response": "a" * self.letters}
            rows |= {"metric": own_data.METRIC}
            rows |= {"finish_reason": ["length" if n < self.cut_off else "stop" for n in numbers]}
            rows |= {"value": [float(n % self.every == 0) for n in numbers]}
            (self.out / path).parent.mkdir(parents=True, exist_ok=True)
            artifacts.write_parquet(self.out / path, pd.DataFrame(rows), "samples", {})

    def collect(self, effort: str = "standard", train: int = 400, validation: int = 100, test: int = 70, **more):
        records = {"train": train, "validation": validation, "test": test}
        asking = ONE._replace(records={part: ONE.records["test"][:1] * n for part, n in records.items()})
        usual = {"answers": asking, "own": Own(train), "methods": {effort: efforts.read(effort).method}}
        about = known(10**6, **usual, out=self.out, effort=effort, **more)
        own, said = right_answers.collect(about)
        return replace(about, own=own), " ".join(said)


@pytest.mark.parametrize(
    ("every", "asked", "right"),
    [
        (1, [25, 113], 113),  # 25 give 5,000 tokens of the 20,480 that the effort calibrates on; a tenth more is asked
        (3, [25, 313], 105),
        (10, [25, 400], 40),  # all there are, for half of the tokens
        (11, [25, 400], 37),  # fewer than 40
        (13, [25, 50], 4),  # 2 of 25 are fewer than a tenth: some more are asked, and 4 of 50 are, too: no more are
        (60, [25], 1),
    ],
)
def test_training_questions_are_asked_until_right_answers_are_enough(tmp_path, monkeypatch, every, asked, right):
    model = Answering(monkeypatch, tmp_path, every)
    found, said = model.collect()
    enough = right >= 40
    validation = min(asked[-1] // 2, 100)
    test = ("own_answers", 70)  # beside the second job, then already there
    others = [test] * (asked[-1] > 50) + [("validation", validation), test] * enough
    assert model.asked == [("train", n) for n in asked] + others
    assert f"{right} of {asked[-1]} training questions" in said and ("too few to calibrate on" in said) != enough
    right_of = {"train": right, "validation": math.ceil(validation / every), "test": math.ceil(70 / every)}
    tokens = {part: 200 * count for part, count in right_of.items()}
    rare = 10 * right < asked[-1]
    assert (found.own.asked, found.own.tokens, found.own.rare) == (asked[-1], tokens if enough else {}, rare)
    assert found.own.longest == ({"token": 200, "byte": 199} if enough else Own(1).longest)
    assert ("of the test questions 20 are asked; --questions asks more" in said) == rare
    calibration = build(found, [30])["calibrations"]["own"]
    assert calibration.get("answers") == ("own_answers_train" if enough else None)
    assert calibration["samples"] * calibration["sequence_length"] <= min(20480, 200 * right if enough else 20480)
    model.asked.clear()
    assert model.collect()[0] == found and model.asked[0] == ("train", asked[-1])  # not first fewer once more


def test_another_effort_in_the_same_folder_goes_on_from_what_was_answered(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tokenizers, "load", lambda folder: tiny.tokenizer())
    records = [{"question": f"{n} + 1 = ?", "answer": f"{'so ' * (n % 9)}{n + 1}"} for n in range(3000)]
    (tmp_path / "decision.html").write_text("of an earlier run")

    def offered(effort: str, records=records):
        found = ready.with_data(known(context=512, effort=effort, out=tmp_path), records, "--data mine.jsonl")
        written = {part: (tmp_path / f"own-data/own_answers/{part}.jsonl").read_text() for part in own_data.PARTS}
        return found.own.asked, {**written, "asked so": found.answers.definition("train")}

    (fewer, first), (more, then) = offered("standard"), offered("thorough")
    assert (fewer, more) == (800, 1600) and first.pop("test") != then.pop("test")  # 50 and 100 to test on
    assert first == then and then["train"].count("\n") == 1600 and then["validation"].count("\n") < 800
    assert "other data" not in capsys.readouterr().out
    offered("standard", records[:2000])
    assert "holds a run on other data: a run replaces its page" in capsys.readouterr().out

    model = Answering(monkeypatch, tmp_path, 1)
    model.collect(train=800)
    model.collect(effort="thorough", train=800)
    assert [n for part, n in model.asked if part == "train"] == [25, 113, 113, 271]


@pytest.mark.parametrize(
    ("given", "own", "edited", "tolerance"),
    [
        (None, None, None, 0.1),
        (None, Own(50, {}), None, 0.1),  # too few are right
        (None, OWN, None, 0.02),
        (0.2, OWN, None, 0.2),
        (0, OWN, None, 0),
        (None, OWN, {"prompt": None, "seqlen": 64}, 0.1),  # of windows, as before this was measured otherwise
        (None, None, OWN, 0.02),
    ],
)
def test_right_answers_may_lose_less_of_their_perplexity_than_texts(given, own, edited, tolerance):
    about = known(10**5, answers=ONE, own=own, **({} if given is None else {"tolerance": given}))
    if edited:
        content = build(replace(about, own=OWN), [20])
        content["tasks"]["own_validation"] |= edited if isinstance(edited, dict) else {}
        about = replace(about, mine=config_file.Edited(content, validated(content)))
    assert about.tolerance == tolerance


def test_validation_questions_are_no_more_than_a_hundred_right_answers_take(tmp_path, monkeypatch):
    model = Answering(monkeypatch, tmp_path, 1)
    found, _ = model.collect(effort="thorough", validation=300)
    asked = [("train", 25), ("train", 271), ("own_answers", 70), ("validation", 110), ("own_answers", 70)]
    assert model.asked == asked  # a tenth more, as a part is answered less well than another
    tasks = build(found, [20])["tasks"]
    assert tasks["own_validation"]["tokens"] == found.own.tokens["validation"] == 110 * 200 > tasks["own"]["tokens"]


def test_short_answers_are_asked_for_until_they_are_a_text_to_choose_by(tmp_path, monkeypatch):
    model = Answering(monkeypatch, tmp_path, 1, letters=5)
    found, _ = model.collect(train=800, validation=400, test=200)
    assert ("validation", 141) in model.asked and found.own.tokens == {"train": 8000, "validation": 1410, "test": 2000}


@pytest.mark.parametrize(("parts", "remedy"), [({"validation": 100, "test": 200}, False), ({"test": 100}, True)])
def test_more_questions_are_a_remedy_for_few_test_questions_alone(tmp_path, monkeypatch, parts, remedy):
    model = Answering(monkeypatch, tmp_path, 1, letters=5)
    found, said = model.collect(**{"train": 800, "validation": 400, **parts})
    assert found.own.tokens == {} and ("(--questions asks more)" in said) == remedy


@pytest.mark.parametrize(("every", "tokens", "asked"), [(1, 3000, [25, 45]), (2, 5000, [25, 85])])
def test_few_tokens_are_no_reason_to_stop_below_forty_right_answers(tmp_path, monkeypatch, every, tokens, asked):
    model = Answering(monkeypatch, tmp_path, every)
    found, _ = model.collect(tokens=tokens)
    assert [limit for part, limit in model.asked if part == "train"] == asked and found.own.tokens


def test_an_edited_configuration_asks_what_it_says(tmp_path, monkeypatch):
    model = Answering(monkeypatch, tmp_path, 1)
    for asks, asked in ((False, []), (True, [("train", 60)])):
        content = made(answers=judged(*"1" * 60), own=Own(60, validation=30) if asks else None)
        (tmp_path / "prune.yaml").write_text(text(content, "me"))
        mine = config_file.Edited(content, validated(content))
        assert model.collect(mine=mine)[0].own.tokens.get("train", 0) == 200 * len(asked) * 60
        assert model.asked[:1] == asked and not (tmp_path / running.START).exists()


ENOUGH = [  # how the dense model answers, what it is asked, and whether its right answers are enough
    ({"cut_off": 1}, {"train": 41}, True),
    ({"cut_off": 1}, {"train": 40}, False),  # 39 right to the end
    ({"every": 7}, {"effort": "standard"}, True),  # 58 right answers, 11,600 tokens of 20,480
    ({"every": 7}, {"effort": "thorough"}, False),  # of 49,152
    ({"every": 7}, {"tokens": 10**6}, True),  # which asks for as many as there are
    ({}, {"test": 7}, True),  # to compare models on: 1,400 tokens, where 40 windows of 32 are needed
    ({}, {"test": 6}, False),
    ({}, {"validation": 0}, False),  # and nobody is asked nothing
]


@pytest.mark.parametrize(("model", "asked", "enough"), ENOUGH)
def test_right_answers_are_enough_to_calibrate_on_and_to_compare_models_by(tmp_path, monkeypatch, model, asked, enough):
    found, said = Answering(monkeypatch, tmp_path, **{"every": 1, **model}).collect(**asked)
    assert bool(found.own.tokens) == enough == ("Models are calibrated on these answers" in said)
    assert ("1,200 tokens to test questions, too few" in said) == (asked == {"test": 6})


# other models


def test_models_to_compare_with_are_computed_alike_and_read_the_same_texts(tmp_path, monkeypatch):
    folders = {alias: tmp_path / f"results/{alias}/base" for alias in ("m", "small")}
    for folder in folders.values():
        tiny.with_a_merge(tiny.save(tiny.qwen2(1), folder))
    monkeypatch.chdir(tmp_path)
    Path("Small").mkdir()
    source = {"kind": "local", "path": str(tmp_path / "Small")}
    about = replace(known(out=tmp_path, against=["q8_0", "Small"]), smaller={"small": source})
    found = ready.with_smaller(about, about.model["m"])
    assert found == {"small": about.model["m"] | {"source": source}}
    rare = Own(50, {}, rare=True)  # then answers tell no models apart
    for answers, own, task in ((None, None, "own"), (ONE, None, "own_answers"), (ONE, rare, "own")):
        table = build(replace(about, smaller=found, answers=answers, own=own), [20])["tables"]["smaller"]
        assert (table["tasks"], table["siblings"], table["quantised"]) == ([task], ["small"], ["q8_0"])
    refused = pytest.raises(InputError, match="^--against Small: its tokenizer or chat format is not that of m, in wh")
    (folders["small"] / "chat_template.jinja").write_text("{{ messages }}")
    with refused:
        ready.with_smaller(about, about.model["m"])
    (folders["small"] / "chat_template.jinja").unlink()
    for folder in folders.values():
        tiny.save(tiny.of_family("cohere"), folder)
    with pytest.raises(InputError, match="^--against Small: gguf: model type 'cohere' is not converted"):
        ready.with_smaller(about, about.model["m"])


FILES = {"quantised": ["f16"]}


@pytest.mark.parametrize(
    ("changes", "asked"),
    [
        ({}, [prune.SMALLER]),
        ({"smaller": None}, []),
        ({"methods": {"title": "Methods", "tasks": ["own"], "sparsities": [20]}}, [prune.SMALLER, prune.METHODS]),
        ({"table1": FILES}, [prune.SMALLER]),  # without those of the validation text there is no verdict
        ({"table1": FILES, "validation": FILES}, [*prune.AGAINST, prune.SMALLER]),
    ],
)
def test_of_an_edited_configuration_the_tables_are_asked_for_that_it_makes(changes, asked):
    about = known(methods=["attention_obs"], against=["Small"])
    about = replace(about, smaller={"small": about.model["m"]})
    content = build(about, [20])
    for name, own in changes.items():
        content["tables"][name] = own and content["tables"].get(name, {}) | own
    found = prune.tables(replace(about, mine=config_file.Edited(content, validated(content))))
    assert found == (*prune.TABLES, *asked)


@pytest.mark.parametrize(
    ("against", "message"),
    [
        (["q9"], "--against: no GGUF type: q9: neither a folder nor a .gguf file nor a repository"),
        (["x/m"], "--against: two models are called m: rename a folder or file"),
        (["x/s", "y/s@" + 40 * "0"], "--against: two models are called s"),
    ],
)
def test_what_is_no_other_model_is_refused_before_any_job(tmp_path, against, message):
    (tmp_path / "mine.jsonl").write_text('{"text": "a"}')
    with pytest.raises(InputError, match=message):
        ready.ready(Request("y/m", tmp_path / "mine.jsonl", out=tmp_path / "out", against=against))
    assert not (tmp_path / "out").exists()


# what a run leaves alone, and says


def test_nothing_else_works_in_the_folder_of_a_run(tmp_path):
    request = Request("y/m", tmp_path / "mine.jsonl", out=tmp_path / "out")
    with pytest.raises(InputError, match="--data .*mine.jsonl: no such file"):
        line.show_plan(request)
    assert not request.out.exists()  # nothing is left of what could not be
    request.data.write_text('{"a": "b"}')
    with locks.held(request.out / running.STATE):
        for function in (line.show_plan, partial(prune.prune, line="prune y/m")):
            with pytest.raises(InputError, match="^--out: another run is active in .*out: wait for its end"):
                function(request)
    state = request.out / ".snakemake"
    with locks.held(state), pytest.raises(InputError, match="^--out: a run of Snakemake is active in"):
        line.show_plan(request)
    assert not [*request.out.glob("[!.]*")]
    with pytest.raises(InputError, match="mine.jsonl: its records have a"):  # the lock is free again
        line.show_plan(request)


def test_fields_that_are_not_read_are_named_before_the_model_is_fetched(tmp_path, capsys):
    given = {"data": tmp_path / "mine.jsonl", "out": tmp_path / "out", "methods": ["wandaa"]}
    for record, read, unread in (
        ({"question": "q", "answer": "a", "context": "c"}, "question and answer", "context"),
        ({"instruction": "q", "input": "i", "output": "a", "id": 1}, "instruction and output and input", "id"),
    ):
        given["data"].write_text(json.dumps(record))
        with pytest.raises(InputError, match="--methods: unknown name 'wandaa'; nearest: wanda"):
            ready.ready(Request("y/m", **given))
        assert f"of the data {read} are read, and not {unread}." in capsys.readouterr().out


# an earlier run's model, and an edited configuration's sparsities


@pytest.mark.parametrize(("recover", "found"), [(None, "own/standard/20"), ("distill", "own/standard/20/own")])
def test_a_recovered_model_stands_in_for_one_of_a_run_that_recovers_alone(tmp_path, recover, found):
    (tmp_path / "results/m/export/own/standard/20/own/model").mkdir(parents=True)
    about = SimpleNamespace(request=SimpleNamespace(out=tmp_path, recover=recover), alias="m", mine=None)
    assert str(prune.stand_in(about, [("standard", 20), ("standard", 30)])) == found


def test_a_plan_takes_no_sparsity_of_another_budget(tmp_path):
    found = {"sparsity": 20, "kind": "bytes", "asked": "90%"}
    for asked, taken in (("bytes=90%", {"agf": 20}), ("bytes=70%", {}), ("parameters=90%", {})):
        about = known(out=tmp_path, budget=(asked,))
        [path] = prune.budget_paths(about).values()
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        artifacts.write_json(tmp_path / path, found, "budget", {})
        assert prune.found_before(about) == taken


def test_a_job_takes_as_long_as_others_unless_what_is_counted_says_otherwise():
    assert estimate.likely(None, 50, 3) == 53 and estimate.likely(None, None, 3) == 3
    assert estimate.likely(60, 50, 3) == 60 and estimate.likely(60, None, 3) == 60
    assert estimate.likely(7, 50, 3) == estimate.likely(300, 50, 3) == 53  # of fewer samples, or of more


def test_sparsities_of_an_edited_configuration_are_those_that_a_budget_asks_for():
    tables = {"table1": [("a", 28), ("b", 10)], "validation": [("a", 37)]}
    config = SimpleNamespace(table=lambda name: SimpleNamespace(pruned=tables[name]))
    assert prune.budgeted(config, {"a": 37, "b": 10}) == "tables.table1.at"
    assert prune.budgeted(config, {"a": 28, "b": 10}) == "tables.validation.at"
    tables["table1"] = [("a", 37)]
    assert prune.budgeted(config, {"a": 37, "b": 10}) == ""


# the status


def job(number: int, rule: str, log: str = "", **wildcards: str) -> dict:
    return {"event": "job_info", "jobid": number, "rule_name": rule, "wildcards": wildcards, "output": [], "log": [log]}


START, NOTHING = {"event": "workflow_started"}, {"event": "nothing_to_do"}
BEFORE = [START, {"event": "progress", "done": 9, "total": 9}]
RAN = [
    *(START, job(3, "score", method="wanda"), {"event": "job_finished", "job_id": 3}),
    *({"event": "progress", "done": 1, "total": 4}, job(4, "evaluate", "results/logs/e.log", variant="dense")),
]


def status_of(folder: Path, *events: dict) -> list[str]:
    (folder / "events").write_text("".join(json.dumps(event) + "\n" for event in events))
    return running.lines(running.read(folder / "events"), folder)


def test_the_status_is_of_the_last_run_and_names_what_is_at_work(tmp_path):
    done, nothing = "1 of 4 steps (25%) done", "no job has ended yet"
    goes_on = "the same command as before goes on from here"
    stopped = [done, "stopped: evaluate variant=dense", goes_on]
    assert status_of(tmp_path, *BEFORE, *RAN) == stopped  # no run was ever there
    (tmp_path / ".snakemake").mkdir()
    (tmp_path / ".prune").mkdir()
    starting = locks.hold(tmp_path / ".prune")
    assert status_of(tmp_path, *RAN, START, NOTHING) == ["at work: the next step is being prepared"]
    os.close(starting)
    alive = locks.hold(tmp_path / ".snakemake")
    assert status_of(tmp_path, *BEFORE, *RAN) == [done, "at work: evaluate variant=dense"]
    assert status_of(tmp_path, START) == [nothing]
    os.close(alive)  # as the kernel does when the process is killed
    assert status_of(tmp_path, *BEFORE, *RAN) == stopped
    (tmp_path / "decision.html").touch()  # of an earlier run
    page, written = "its page is not written", {"event": "page_written"}
    assert status_of(tmp_path, *BEFORE) == ["9 of 9 steps (100%) done", f"that step has ended, and {page}: {goes_on}"]
    assert status_of(tmp_path, *RAN, START, NOTHING) == [f"the last step has ended, and {page}: {goes_on}"]
    assert status_of(tmp_path, *BEFORE, written)[1:] == [f"the page is there: {tmp_path / 'decision.html'}"]
    assert status_of(tmp_path, *BEFORE, written, START, NOTHING)[0].startswith("the last step has ended, and its page")
    assert status_of(tmp_path, START) == running.lines(running.read(tmp_path / "none"), tmp_path) == [nothing, goes_on]
    assert status_of(tmp_path, *RAN, START, NOTHING, written) == ["all jobs have ended"]


def test_the_status_names_the_run_and_the_progress_that_a_log_ends_with(tmp_path):
    (tmp_path / "results/logs").mkdir(parents=True)
    (tmp_path / ".snakemake").mkdir()
    log, bar = tmp_path / "results/logs/e.log", "requests:  25%|██▌       | 1/4 [00:01<00:03]"
    alive = locks.hold(tmp_path / ".snakemake")
    of = [event | {"of": "pruning"} for event in RAN]
    for written, shown in {f"start\n\rrequests:   0%|  \r{bar}": f": {bar}", f"{bar}\nwritten\n": ""}.items():
        log.write_bytes(written.encode())
        at_work = f"at work: evaluate variant=dense{shown}"
        assert status_of(tmp_path, *of) == ["pruning: 1 of 4 steps (25%) done", at_work]
    os.close(alive)


def test_a_failed_job_is_named_with_its_last_words(tmp_path):
    (tmp_path / "results/logs").mkdir(parents=True)
    (tmp_path / "results/logs/e.log").write_text("start\nerror: no memory\n\n")
    found = status_of(tmp_path, *RAN, {"event": "job_error", "jobid": 4})
    assert found == ["1 of 4 steps (25%) done", "failed: evaluate variant=dense: error: no memory"]
