"""Every table and figure, end to end, on a random model of two layers; and what re-runs when something changes."""

import json
import re
import shutil

import pandas as pd
import pytest
import yaml

from planned_jobs import Dag
from workspace import ROOT, Workspace, changed, code_below, undescribed

TABLES = ["ablation", "collapse", "latency", "readings", "recovery", "ridge", "seeds"]
TABLES += ["table1", "table3", "table4", "table5", "table6", "tradeoff"]
FIGURES = ["collapse", "fig1", "fig2", "fig3", "latency", "recovery", "tradeoff", "widths"]
PAPER = {"first_page": 1, "experiments": 1, "paper": 1}  # what any table or figure is on
NOTHING: dict[str, int] = {}


def test_everything_is_made_in_every_form_and_nothing_is_left_to_do(paper: Workspace):
    results = paper.path / "results"
    for table in [*TABLES, "costs"]:
        for form in ("csv", "md", "tex"):
            assert (results / f"{table}.{form}").stat().st_size > 100, (table, form)
        assert "<table>" in (results / f"pages/{table}.html").read_text()
        if table != "table5":  # the models' own texts, as they are
            tex = (results / f"{table}.tex").read_text()
            assert tex.isascii(), set(tex) - set(map(chr, range(128)))  # no character pdflatex might not know
    for figure in FIGURES:
        assert (results / f"figures/{figure}.svg").read_text().startswith("<?xml")
        assert (results / f"figures/{figure}.png").stat().st_size > 10_000
    assert paper.planned("paper") == NOTHING


def test_every_column_is_described(paper: Workspace):
    assert undescribed(paper) == []


def test_recovered_and_compensated_models_are_other_models(paper: Workspace):
    variants = paper.path / "results/tiny-reasoner/eval/gsm_symbolic-s0"
    text = "gsm_symbolic_text.samples.parquet"
    plain, tuned = (pd.read_parquet(variants / f"rku/50{t}" / text)["value"] for t in ("", "/arithmetic"))
    assert not (plain == tuned).any()
    manifests = paper.path / "results/tiny-reasoner/compact/gsm_symbolic-s0"
    plain, ridge = (json.loads((manifests / m / "50/manifest.json").read_text()) for m in ("wanda", "ridge_wanda"))
    assert plain["widths"] == ridge["widths"]
    assert plain["files"]["model.safetensors"] != ridge["files"]["model.safetensors"]
    assert [set(record) >= {"lambda", "held_out_error"} for record in ridge["compensation"]] == [True, True]
    assert not (paper.path / "results/tiny-reasoner/calibration/gsm_symbolic-s0/second_moments").exists()  # temporary


def test_tables_compare_what_they_say(paper: Workspace):
    recovery = pd.read_csv(paper.path / "results/recovery.csv")
    assert set(recovery.loc[recovery["tuning"].notna(), "reference"]) == {"untuned"}
    ridge = pd.read_csv(paper.path / "results/ridge.csv").dropna(subset=["reference"])
    assert list(zip(ridge["method"], ridge["reference"], strict=True)) == [("ridge_wanda", "wanda")]
    assert "spread over calibrations" in (paper.path / "results/seeds.md").read_text()
    table4 = pd.read_csv(paper.path / "results/table4.csv")
    assert len(table4) == 2 * 2 * 2  # pairs, average and one layer, sparsities
    readings = pd.read_csv(paper.path / "results/readings.csv").set_index("reading")
    assert readings["chosen"].to_dict() == {"presets": True, "layer_constant": False}
    assert readings.loc["layer_constant", "agf_verdict"] == "same"  # a layer's constant changes no uniform mask
    assert readings.loc["layer_constant", "apart_agf"] == 0
    costs = pd.read_csv(paper.path / "results/costs.csv")
    assert {"evaluate", "recover", "second_moments", "latency", "speed"} <= set(costs["stage"])


def test_the_first_page_tells_the_result_and_shows_all_tables_and_figures(paper: Workspace):
    page = (paper.path / "results/index.html").read_text()
    assert page.count("data:image/svg+xml;base64,") == len(FIGURES)
    assert set(re.findall(r'id="table-(\w+)"', page)) == {*TABLES, "costs"}
    dense = pd.read_csv(paper.path / "results/table1.csv").iloc[0]
    assert f"<code>tiny-reasoner</code> has an accuracy of {100 * dense['value']:.1f}% [" in page
    assert "tiny-reasoner: what pruning leaves" in (paper.path / "results/experiments.html").read_text()


def test_the_models_of_the_tables_are_timed(paper: Workspace):
    frame = pd.read_csv(paper.path / "results/tradeoff.csv")
    assert len(frame) == 1 + 3 * 2 + 1 + 2  # dense, Table 1's, one with ridge, two recovered
    speed = pd.read_csv(paper.path / "results/analysis/speed/tiny-reasoner.csv").set_index("variant")
    assert speed.loc["gsm_symbolic-s0/rku/50/gsm_symbolic", "timed"] == "gsm_symbolic-s0/wanda/50"
    for variant in ("gsm_symbolic-s0/wanda/50", "gsm_symbolic-s0/ridge_wanda/50"):
        folder = paper.path / "results/tiny-reasoner/compact" / variant / "model"
        assert speed.loc[variant, "bytes"] == (folder / "model.safetensors").stat().st_size


def test_an_experiment_with_a_name_has_its_own_tables_and_the_same_models(paper: Workspace):
    without = dict.fromkeys(("overlap", "readings", "cases", "collapse", "ablation", "latency", "trap", "spectrum"))
    own = {"experiment": {"name": "mine"}, "tables": dict.fromkeys(("table3", "table6", "recovery", "ridge", "seeds"))}
    (paper.path / "named.yaml").write_text(yaml.safe_dump(own | without))
    stacked = ["--configfile", "test.yaml", "named.yaml"]
    assert paper.planned("results/mine/table1.csv", *stacked) == {"leakage": 1, "table": 1}
    made = paper.path / "results/table1.csv"
    before = made.stat().st_mtime_ns
    paper.snakemake("results/mine/index.html", "results/experiments.html", *stacked)
    assert (paper.path / "results/mine/table1.csv").read_bytes() == made.read_bytes()
    assert made.stat().st_mtime_ns == before
    listed = (paper.path / "results/experiments.html").read_text()
    assert re.findall('href="(.*?)"', listed) == ["index.html", "mine/index.html"] and "mine: what pruning" in listed
    assert (paper.path / "results/logs/mine/table1.log").exists()
    assert paper.planned("results/mine/index.html", *stacked) == NOTHING
    assert paper.planned("paper") == {"experiments": 1, "paper": 1}  # the list, which was the other's last
    paper.snakemake("paper")
    assert paper.planned("paper") == NOTHING


@pytest.fixture(scope="module")
def dag(paper: Workspace) -> Dag:
    return paper.dag("paper")


def test_jobs_depend_on_all_of_the_library_that_they_load(paper: Workspace, dag: Dag):
    """Whatever finds it: rules read import statements, this is what was imported."""
    runs = [json.loads(line) for line in (paper.path / "loaded").read_text().splitlines()]
    loaded = {script: {m for one, modules in runs if one == script for m in modules} for script, _ in runs}
    assert len(loaded) > 30 and {"scripts/evaluate.py", "scripts/pruning/report/pages/index.py"} <= {*loaded}
    for script, modules in loaded.items():
        if script != "-m":  # snakemake itself
            assert modules <= dag.inputs_with(script), script


@pytest.mark.parametrize("figure", FIGURES)
def test_a_figures_looks_are_its_own(dag: Dag, figure: str):
    (file,) = (ROOT / "scripts/pruning").glob(f"*/figures/{figure}.py")
    assert dag.after_editing(str(file.relative_to(ROOT))) == {"figure": 1, **PAPER}


def test_the_house_style_is_the_figures_own(dag: Dag):
    edited = "scripts/pruning/report/figures/style.py"
    assert dag.after_editing(edited) == {"figure": len(FIGURES), **PAPER}


# What may re-run: the table and its page.
EDITS = {
    "scripts/pruning/report/tables/__init__.py": {"table": 13, "page": 13, "figure": 2, **PAPER},
    "scripts/pruning/report/tables/results.py": {"table": 7, "page": 7, "figure": 1, **PAPER},
    "scripts/pruning/paper/tables/table4.py": {"table": 1, "page": 1, **PAPER},
    "scripts/pruning/paper/tables/table5.py": {"table": 1, "page": 1, **PAPER},
    "scripts/pruning/paper/tables/ablation.py": {"table": 1, "page": 1, **PAPER},
    "scripts/pruning/paper/tables/readings.py": {"table": 1, "page": 1, **PAPER},
    "scripts/pruning/paper/tables/collapse.py": {"table": 1, "page": 1, **PAPER},
    "scripts/pruning/report/tables/latency.py": {"table": 1, "page": 1, "figure": 1, **PAPER},
    "scripts/pruning/report/tables/tradeoff.py": {"table": 1, "page": 1, "figure": 1, **PAPER},
    "scripts/timing.py": {"latency": 1, "speed": 1, "table": 2, "page": 2, "figure": 2, **PAPER},
    "scripts/pruning/report/pages/index.py": PAPER,
    "scripts/pruning/report/pages/experiments.py": {"experiments": 1, "paper": 1},
    "report/index.html.j2": PAPER,
    "scripts/pruning/report/pages/__init__.py": {"page": 14, **PAPER},
    "scripts/pruning/report/pages/table.py": {"page": 14, "paper": 1},
    "report/page.css": {"page": 14, **PAPER},
    "scripts/pruning/report/tables/costs.py": {"costs": 1, "page": 1, **PAPER},
    "scripts/pruning/paper/trap.py": {"trap": 1, "table": 1, "page": 1, "figure": 1, **PAPER},
    "scripts/pruning/paper/token_classes.py": {"observe": 1, "spectrum": 1, "trap": 1, "figure": 2, **PAPER},
    "scripts/pruning/report/widths.py": {"widths": 1, "figure": 1, **PAPER},
    "scripts/pruning/paper/spectrum.py": {"spectrum": 1, "figure": 1, **PAPER},
    "scripts/pruning/methods/compensation/ridge.py": {
        **{"compact": 1, "second_moments": 1, "evaluate": 1, "speed": 1},
        **{"table": 2, "page": 2, "figure": 1, **PAPER},
    },
}


@pytest.mark.parametrize("file", EDITS)
def test_editing_a_stage_plans_its_dependants(dag: Dag, file: str):
    assert dag.after_editing(file) == EDITS[file]


@pytest.mark.parametrize(
    "file",
    ["report/page.css", "scripts/pruning/report/tables/__init__.py", "scripts/pruning/methods/compensation/ridge.py"],
)
def test_snakemake_plans_what_the_dag_says(paper: Workspace, file: str):
    """Real edits, one of which needs temporary files again: the proof of the tests above."""
    path = paper.path / file
    with changed(path, path.read_text() + "\n# edited\n"):
        assert paper.planned("paper") == EDITS[file]


SETTINGS = {
    "tables.table6.tasks": (
        ["gsm_symbolic_wider_text"],
        {"fetch_dataset": 1, "evaluate": 7, "leakage": 1, "table": 1, "page": 1, **PAPER},
    ),
    "tables.recovery.title": ("Another", {"table": 2, "page": 2, "figure": 1, **PAPER}),
    # Snakemake plans `costs`, whose set of inputs has changed, when no input of it is to be made anew: the next time.
    "tables.ridge": (None, {"speed": 1, "table": 1, "page": 1, "figure": 1, **PAPER}),
    "tunings.arithmetic.note": ("what to know", {"table": 1, "page": 1, **PAPER}),
    "tunings.arithmetic.objective": (
        "distillation",
        {"recover": 2, "evaluate": 2, "figure": 1, "table": 1, "page": 1, **PAPER},
    ),
    "tunings.arithmetic.steps": (3, {"recover": 2, "evaluate": 2, "figure": 1, "table": 1, "page": 1, **PAPER}),
    "trap.high": (0.9, {"trap": 1, "table": 1, "page": 1, "figure": 1, **PAPER}),
    "spectrum.draws": (3, {"spectrum": 1, "figure": 1, **PAPER}),
    "cases.excerpt": (10, {"table": 1, "page": 1, **PAPER}),
    "cases.tokens": (11, {"cases": 4, "table": 1, "page": 1, **PAPER}),
    "readings.rows.layer_constant": (None, {"table": 1, "page": 1, **PAPER}),
    "experiment.layer": (1, {"observe": 1, "spectrum": 1, "trap": 1, "table": 2, "page": 2, "figure": 2, **PAPER}),
    "spectrum.tokens": (20, {"observe": 1, "spectrum": 1, "trap": 1, "figure": 2, **PAPER}),
    "collapse.resamples": (90, {"collapse": 1, "table": 1, "figure": 2, "page": 1, **PAPER}),
    "ablation.allocations": (["global"], {"table": 1, "page": 1, **PAPER}),
    "tradeoff.rounds": (4, {"speed": 1, "table": 1, "page": 1, "figure": 1, **PAPER}),
    "tradeoff.tables": (["table1", "recovery"], {"speed": 1, "table": 1, "page": 1, "figure": 1, **PAPER}),
    "latency.rounds": (4, {"latency": 1, "table": 1, "figure": 1, "page": 1, **PAPER}),
}


@pytest.mark.parametrize("key", SETTINGS)
def test_changing_a_setting_plans_its_dependants(paper: Workspace, key: str):
    value, jobs = SETTINGS[key]
    with paper.configured({key: value}):
        assert paper.planned("paper") == jobs


def test_the_report_holds_captions_tables_and_figures(paper: Workspace):
    paper.snakemake("--report", "report.html", "paper")
    report = (paper.path / "report.html").read_text()
    assert "The claim of a magnitude trap, tested." in report
    assert "Every combination of RKU's choices, best first." in report
    assert len(set(re.findall(r"results/figures/\w+\.svg", report))) == len(FIGURES)


# docs/howto/ shows what each of these takes; its YAML is what is run here.
@pytest.mark.parametrize(
    ("page", "title", "column", "value"),
    [
        ("method", "A method that recombines what there is", "method", "taylor_sq"),
        ("data", "In the pipeline: a dataset of your own", "task", "my_questions"),
        ("model", "In the pipeline", "model", "my_model"),
    ],
)
def test_additions_are_config_only(paper: Workspace, page: str, title: str, column: str, value: str):
    mine = yaml.safe_load(code_below(f"docs/howto/{page}.md", title)[0])
    questions = [{"question": f"What is {n} and {n}?", "answer": f"{2 * n}"} for n in range(30)]
    (paper.path / "my_questions.jsonl").write_text("".join(json.dumps(each) + "\n" for each in questions))
    shutil.copytree(paper.path / "resources/model", paper.path / "my_model", dirs_exist_ok=True)
    changes = {f"{section}.{name}": own for section, entries in mine.items() for name, own in entries.items()}
    with paper.configured(changes | ({"tasks.my_questions.seqlen": 64} if column == "task" else {})):
        paper.snakemake("results/mine.csv")
    assert value in set(pd.read_csv(paper.path / "results/mine.csv")[column])
