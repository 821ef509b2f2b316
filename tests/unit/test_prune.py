"""What `prune` makes of a user's data, model and results."""

import hashlib
import json
import os
from pathlib import Path

import pandas as pd
import pytest
import yaml

import tiny
from pruning.command import config_file, decision, own_data, status
from pruning.command.configuration import (
    Known,
    Request,
    budget_of,
    build,
    calibration,
    model_section,
    model_source,
    parameters_of,
    text,
)
from pruning.command.line import numbers
from pruning.core import devices, locks
from pruning.core.errors import InputError
from pruning.core.names import Variant
from pruning.data import datasets
from pruning.report import catalogue

CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
REFUSING = "{% for m in messages %}{{ '<' + m.content }}{% endfor %}"
REFUSING += "{% if messages[0].role == 'assistant' %}{{ raise_exception('twice') }}{% endif %}"


def read(path: Path, *records, chat: str | None = None) -> list[dict[str, str]]:
    """The prompts and completions of these records, for a model with this chat format."""
    path.write_text("\n".join(record if isinstance(record, str) else json.dumps(record) for record in records))
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = chat
    return own_data.texts(datasets.read_jsonl(path), tokenizer, path)


# data


def said(*roles: str) -> list[dict]:
    return [{"role": role, "content": "hi"} for role in roles]


def test_pairs_texts_and_conversations_become_prompts_and_completions(tmp_path):
    path = tmp_path / "mine.jsonl"
    assert read(path, {"question": " 1+1? ", "answer": " 2\n"}, "") == [{"prompt": "1+1?\n", "completion": "2"}]
    assert read(path, {"text": "abc"}) == [{"prompt": "", "completion": "abc"}]
    found = read(path, {"messages": said("user", "assistant")}, chat=CHAT)
    assert found == [{"prompt": "<user>hi<assistant>", "completion": "hi"}]


UNANSWERED = "record 1: `messages` must end in an answer"
NO_CHAT = "record 1: the model's chat format refuses it: "
NONE_FOUND = "its records have a, b; one of these is needed: `messages`, `prompt` and `completion`"


@pytest.mark.parametrize(
    ("records", "chat", "message"),
    [
        ([{"a": 1, "b": "x"}], None, NONE_FOUND),
        ([{"question": "q", "answer": "a"}, {"question": "q"}], None, "record 2 has no text in `answer`"),
        ([{"question": "q", "answer": 3}], None, "record 1 has no text in `answer`"),
        ([{"text": " "}], None, "record 1 has no text in `text`"),
        (['{"question": "q"'], None, "mine.jsonl:1: broken JSON"),
        (["[1]"], None, "mine.jsonl:1: expected a JSON object, found list"),
        ([""], None, "mine.jsonl: holds no records"),
        ([{"messages": []}], None, "`messages`, but the model's tokenizer has no chat format"),
        ([{"messages": said("user")}], REFUSING, UNANSWERED),
        ([{"messages": ["user", "assistant"]}], REFUSING, UNANSWERED),
        ([{"messages": said("assistant", "assistant")}], REFUSING, NO_CHAT + "twice"),
        ([{"messages": said("assistant")}], REFUSING, NO_CHAT + "Cannot apply chat template to an empty conversation"),
        ([{"messages": [*said("user"), said("assistant")[0] | {"content": 3}]}], REFUSING, NO_CHAT + "can only concat"),
    ],
)
def test_odd_data_are_named(tmp_path, records, chat, message):
    with pytest.raises(InputError, match="mine.jsonl:") as error:
        read(tmp_path / "mine.jsonl", *records, chat=chat)
    assert message in str(error.value)


ODD = {  # content of the file -> what is said of it
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


@pytest.mark.parametrize("prompt", ["a", "XX"])
def test_records_that_all_fall_on_one_side_are_refused(prompt):
    side = "calibrate" if hashlib.sha256(prompt.encode()).digest()[0] < 256 * 0.2 else "test"
    with pytest.raises(InputError, match=f"--data: none of its 9 records is left to {side} on"):
        own_data.split([{"prompt": prompt, "completion": str(n)} for n in range(9)])


def test_equal_prompts_are_on_one_side_and_new_records_move_no_other():
    pairs = [{"prompt": f"p{n % 200}", "completion": str(n)} for n in range(400)]
    parts = train, test = own_data.split(pairs)
    assert len(train) + len(test) == 400 and 0.1 < len(test) / 400 < 0.3
    assert not {pair["prompt"] for pair in train} & {pair["prompt"] for pair in test}
    more = own_data.split([*pairs, {"prompt": "new", "completion": "x"}])
    assert tuple([pair for pair in part if pair["prompt"] != "new"] for part in more) == parts


# the configuration


def known(train: int = 9000, test: int = 3000, context: int = 512, gpus: int = 0, path: Path | str = "/m") -> Known:
    source = {"kind": "local", "path": str(path)}
    return Known(model_section("m", source, 10**6, gpus, threads=2), context, train, test)


def made(methods=("agf",), sparsities=(20,), about: Known | None = None, **asked) -> dict:
    """The configuration of a request. asked: what else was asked for."""
    request = Request("m", Path("mine.jsonl"), Path("out"), **asked)
    named = methods if isinstance(methods, dict) else dict.fromkeys(methods)
    return build(request, about or known(), named, sparsities)


def validated(content: dict):
    """As it is written and read by the workflow."""
    return config_file.whole(yaml.safe_load(text(content, "prune …")))


def test_models_are_folders_files_packages_and_repositories(tmp_path):
    (tmp_path / "My Model.v2").mkdir()
    alias, source = model_source(str(tmp_path / "My Model.v2"))
    assert (alias, source["kind"]) == ("my_model_v2", "local")
    gguf = {"kind": "gguf", "package": "pkg", "path": "dir/X.Q4_1.gguf"}
    assert model_source("pkg:dir/X.Q4_1.gguf") == ("x_q4_1", gguf)
    hub = {"kind": "hub", "repo": "Qwen/Qwen2.5-7B", "revision": "a" * 40}
    assert model_source("Qwen/Qwen2.5-7B@" + "a" * 40)[1] == hub
    for name in ("nothing", "none.gguf", "a/b/c"):
        with pytest.raises(InputError, match=name):
            model_source(name)


@pytest.mark.parametrize("recover", [False, True])
def test_what_is_written_is_a_valid_configuration(recover):
    config = validated(made(["agf", "rku"], [20, 40], recover=recover))
    assert config.tasks["own"].seqlen == 64  # 40 windows of 64 in 3,000 tokens, none of 128
    assert (config.calibrations["own"].samples, config.calibrations["own"].sequence_length) == (17, 512)
    assert config.table("table1").methods == ["agf", "rku"] and config.experiment.reference == "agf"
    assert len([table for table in config.tables.values() if table]) == 1
    recovered = [f"own/agf/{sparsity}/own" for sparsity in (20, 40)]  # its speed is measured as well
    assert all((name in map(str, catalogue.timed(config)["m"])) == recover for name in recovered)
    assert config.table("table1").tasks == (["own", "own@own"] if recover else ["own"])


@pytest.mark.parametrize(("gpus", "sizes"), [(0, (80, 1024, 40 * 1024)), (1, (512, 2048, 128 * 2048))])
def test_a_cpu_is_asked_for_less_than_a_gpu(gpus, sizes):
    own = made(about=known(10**6, 10**6, 4096, gpus))
    task = own["tasks"]["own"]
    assert (own["calibrations"]["own"]["samples"], task["seqlen"], task["tokens"]) == sizes


@pytest.mark.parametrize(
    ("parameters", "slow", "fast", "dtype", "memory_gb"),
    [
        (1_500_000_000, (), False, "bfloat16", 8),
        (1_500_000_000, ("bfloat16", "float16"), False, "float32", 14),
        (135_000_000, (), False, "float32", 3),
        (135_000_000, (), True, "bfloat16", 3),
        (4_000_000, (), True, "float32", 2),
    ],
)
def test_a_large_model_is_in_bfloat16_where_the_cpu_has_instructions_for_it(
    monkeypatch, parameters, slow, fast, dtype, memory_gb
):
    monkeypatch.setattr(devices, "slow_dtypes", lambda: slow)
    monkeypatch.setattr(devices, "multiplies_bfloat16", lambda: fast)
    model = model_section("m", {"kind": "local", "path": "x"}, parameters, gpus=0, threads=2)["m"]
    assert (model["dtype"], model["memory_gb"]) == (dtype, memory_gb)


def test_a_models_size_is_known_before_it_is_fetched(tmp_path):
    """Without, a first run of a model larger than `memory_gb`'s least is refused."""
    model = tiny.llama(tie_word_embeddings=True)
    tiny.save(model, tmp_path / "m")
    file = tiny.gguf(model, tmp_path / "m.gguf")
    for name, base in ((tmp_path / "m", "none"), (file, "none"), ("org/name", "m")):
        _, source = model_source(str(name))
        assert parameters_of(source, tmp_path / base) == model.num_parameters()
    assert parameters_of(source, tmp_path / "none") is None


@pytest.mark.parametrize(
    ("about", "message"),
    [
        (known(test=1279), "1279 tokens are left to test on, 1280 are needed"),
        (known(test=9000, context=8), "its context of 8 tokens is shorter than 32, the least to test on"),
    ],
)
def test_too_little_to_test_on_is_said_with_what_is_needed(about, message):
    with pytest.raises(InputError, match=message):
        made(about=about)
    speed = made(about=known(test=1280, context=32))["tradeoff"]
    assert speed["prompt_tokens"] + speed["decode_tokens"] <= 32


@pytest.mark.parametrize(("train", "cut"), [(90_000, (78, 512)), (9_000, (17, 512)), (2_000, (5, 400)), (7, (7, 1))])
def test_few_records_are_cut_into_as_many_sequences_as_refits_need(train, cut):
    own = calibration(known(train, context=4096), 40_000, ["ce"])
    assert (own["samples"], own["sequence_length"]) == cut


# the configuration, edited


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "prune.yaml"
    path.write_text(config_file.signed(text(made(), "prune …")))
    return path


def test_a_file_as_it_was_written_is_not_edited(written, tmp_path):
    assert config_file.edited(written) is None and config_file.edited(tmp_path / "none.yaml") is None
    assert yaml.safe_load(written.read_text()) == made()


def test_what_was_edited_is_used_and_told_by_its_keys(written):
    changed = written.read_text().replace("memory_gb: 2", "memory_gb: 7").replace("micro_batch: 1", "seed: 5")
    written.write_text(changed.replace("- 20", "- 40"))
    content, config = config_file.edited(written)
    assert config.models["m"].memory_gb == 7 and config.table("table1").sparsities == [40]
    assert list(config_file.differences(content, made())) == [
        "models.m.memory_gb: 7 (by the command line: 2)",
        "calibrations.own.seed: 5 (the command line says nothing of it)",
        "calibrations.own.micro_batch: left out (by the command line: 1)",
        "tables.table1.sparsities: [40] (by the command line: [20])",
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("memory_gb:", "memory:", "prune.yaml: models.m.memory: unknown key"),
        ("models:", "modles: {}\nmodels:", "prune.yaml: modles: unknown key"),
        ("micro_batch: 1", "micro_batch: yes", "prune.yaml: calibrations.own.micro_batch: a number is needed"),
        ("micro_batch: 1", "samples: 1", r"prune.yaml:\d+: calibrations.own.samples: this key stands twice"),
        ("# Written", "tables: &a [*a]\n# Written", "prune.yaml:1: tables: the alias"),
        ("  table1:", "  mine:", "prune.yaml: tables.table1: missing"),
    ],
)
def test_mistakes_in_an_edited_file_are_named(written, old, new, message):
    assert old in written.read_text()
    written.write_text(written.read_text().replace(old, new, 1))
    with pytest.raises(InputError, match=message) as error:
        config_file.edited(written)
    assert "\n" not in str(error.value)


# the command line


@pytest.mark.parametrize(
    ("given", "message"),
    [
        *((text, f"--sparsity {text}: whole per cent") for text in ("", "0", "100", "0.3", "20;30", "-5")),
        (["parameters=1B", "bytes=1GB"], "--budget parameters=1B bytes=1GB: one budget at a time"),
        (["parameters=1B,bytes=1GB"], "--budget parameters=1B,bytes=1GB: one budget at a time"),
        (["1.2B"], "--budget 1.2B: no budget '1.2B'; give one of parameters=…, bytes=…, prefill_ms=…, decode_ms=…"),
        (["flops=9"], "--budget flops=9: no budget 'flops'; give one of"),
        (["bytes=many"], "--budget bytes=many: bytes: 'many' is no amount"),
        (["bytes=9XB"], "--budget bytes=9XB: bytes: unknown unit 'XB'"),
        (["decode_ms="], "--budget decode_ms=: decode_ms: '' is no amount"),
    ],
)
def test_what_is_no_sparsity_and_no_budget_is_said(given, message):
    with pytest.raises(InputError) as error:
        numbers(given) if isinstance(given, str) else budget_of(given)
    assert str(error.value).startswith(message)


def test_sparsities_and_budgets_are_read():
    assert numbers("30, 20,30") == [20, 30]
    assert budget_of([]) is None and budget_of(["bytes=9 MB"]) == {"bytes": "9 MB"}


def test_a_budget_is_looked_for_before_there_is_a_table():
    before, after = (
        validated(made(["agf", "rku"], sparsities, recover=True, budget={"prefill_ms": "70%"}))
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


def models(*rows) -> pd.DataFrame:
    dense = ("", "dense", 0, None, 10.0, 9.5, 10.5, None)
    table = pd.DataFrame([dense, *rows], columns=COLUMNS)
    measured = table[["calib", "method", "sparsity", "tuning"]].assign(bytes=2e6 * (1 - table["sparsity"]))
    for part, speed in {"prefill": 1.3, "decode": 1.2}.items():
        for end, least in {"": 0, "_low": 0.1, "_high": -0.1}.items():
            measured[f"{part}_speedup{end}"] = [1.0, *[speed - least] * len(rows)]
    marks = dict.fromkeys(("size_front", "prefill_front"), "behind")
    return decision.rows(table, measured.assign(**marks, decode_front=["front", *["near"] * len(rows)]))


def row(method, sparsity, value, tuning=None):
    return ("own", method, sparsity / 100, tuning, value, value - 1, value + 1, None)


def test_rows_join_quality_size_and_speed():
    dense, pruned = models(row("agf", 20, 12.0)).to_dict("records")
    assert (str(dense["variant"]), dense["loss"], dense["bytes"], dense["front"]) == ("dense", 0, 2e6, True)
    assert [pruned[f"perplexity{end}"] for end in ("", "_low", "_high")] == [12, 11, 13]
    assert [pruned[f"prefill{end}"] for end in ("", "_low", "_high")] == pytest.approx([1.3, 1.2, 1.4])
    assert pruned["loss"] == pytest.approx(0.2) and not pruned["front"]


def test_the_smallest_model_within_the_tolerance_is_taken():
    found = models(row("agf", 20, 10.1), row("agf", 30, 10.9), row("rku", 30, 10.8), row("agf", 40, 12.0))
    choice = decision.choose(found, 0.1)
    assert (str(choice.variant), choice.within) == ("own/rku/30", True) and choice.loss == pytest.approx(0.08)
    nearest = decision.choose(found, 0.001)
    assert (str(nearest.variant), nearest.within) == ("own/agf/20", False)
    assert str(decision.choose(found, 9).variant) == "own/agf/40"
    recovered = models(row("agf", 30, 12.0), row("agf", 30, 10.2, tuning="own"))
    assert decision.choose(recovered, 0.1).variant == Variant("own", "agf", 30, "own")


def test_at_equal_cost_the_best_is_taken_however_much_is_removed():
    found = models(row("wanda", 31, 10.2), row("agf", 34, 10.8))
    assert str(decision.choose(found, 0.1).variant) == "own/agf/34"
    choice = decision.choose(found, 0.1, equal_cost=True)
    assert (str(choice.variant), choice.within) == ("own/wanda/31", True)
    assert not decision.choose(found, 0.01, equal_cost=True).within


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
    return status.lines(status.read(folder / "events"), folder)


def test_the_status_is_of_the_last_run_and_names_what_is_at_work(tmp_path):
    done, nothing = "1 of 4 steps (25%) done", "no job has ended yet"
    goes_on = "the same command as before goes on from here"
    stopped = [done, "stopped: evaluate variant=dense", goes_on]
    assert status_of(tmp_path, *BEFORE, *RAN) == stopped  # no run was ever there
    alive = locks.clear_stale(tmp_path / ".snakemake")
    assert status_of(tmp_path, *BEFORE, *RAN) == [done, "at work: evaluate variant=dense"]
    assert status_of(tmp_path, START) == [nothing]
    os.close(alive)  # as the kernel does when the process is killed
    assert status_of(tmp_path, *BEFORE, *RAN) == stopped
    assert status_of(tmp_path, *BEFORE) == ["9 of 9 steps (100%) done"]
    assert status_of(tmp_path, START) == status.lines(status.read(tmp_path / "none"), tmp_path) == [nothing, goes_on]
    assert status_of(tmp_path, *RAN, START, NOTHING) == ["all jobs have ended"]


def test_a_failed_job_is_named_with_its_last_words(tmp_path):
    (tmp_path / "results/logs").mkdir(parents=True)
    (tmp_path / "results/logs/e.log").write_text("start\nerror: no memory\n\n")
    found = status_of(tmp_path, *RAN, {"event": "job_error", "jobid": 4})
    assert found == ["1 of 4 steps (25%) done", "failed: evaluate variant=dense: error: no memory"]
