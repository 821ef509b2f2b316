"""Several tasks in one job, and models that are cut in memory: fewer loads and fewer files, the same results."""

import shutil

import pytest

from workspace import Workspace

TABLES = {
    "table1": {"tasks": ["gsm_symbolic", "gsm_symbolic_options"], "sparsities": [50]},
    "table6": {"tasks": ["gsm_symbolic_text"], "sparsities": [50]},
}
COMMON = {
    "experiment.methods": ["wanda", "flap", "ridge_wanda"],
    "experiment.reference": "wanda",
    "tables": dict.fromkeys(("table2", "table3", "table7", "recovery", "ridge", "seeds")) | TABLES,
    **dict.fromkeys(("overlap", "readings", "cases", "collapse", "ablation", "latency", "trap", "spectrum")),
}
ASKED = ["gsm_symbolic_text", "gsm_symbolic", "gsm_symbolic_options"]
TOGETHER = {"experiment.together": [ASKED], "storage.compact": "memory"}
TARGETS = ("results/table1.csv", "results/table6.csv")


@pytest.fixture(scope="module")
def both(finished: Workspace, tmp_path_factory) -> tuple[Workspace, Workspace]:
    """Models on disk and a job a task; models cut in memory and a job a model."""
    made = []
    for name, changes in (("apart", {}), ("together", TOGETHER)):
        place = Workspace(tmp_path_factory.mktemp(name))
        shutil.copytree(finished.path / "resources/model", place.path / "resources/model")
        place.configure(COMMON | changes)
        place.snakemake(*TARGETS)
        made.append(place)
    return tuple(made)


@pytest.fixture
def copies(both, tmp_path) -> tuple[Workspace, Workspace]:
    """The same, to change: other tests count what is there, and may run before or after."""
    for number, place in enumerate(both):
        shutil.copytree(place.path, tmp_path / str(number))
    return tuple(Workspace.at(tmp_path / str(number)) for number in range(2))


def test_the_tables_are_the_same(both):
    apart, together = both
    for table, form in ((table, form) for table in ("table1", "table6") for form in ("csv", "md", "tex")):
        name = f"results/{table}.{form}"
        assert (apart.path / name).read_bytes() == (together.path / name).read_bytes(), name
    assert "flap" in (apart.path / "results/table1.csv").read_text()


def test_only_what_is_expensive_to_make_is_written(both):
    apart, together = (sorted(p.parent.name for p in b.path.glob("results/*/compact/*/*/50")) for b in both)
    assert apart == ["flap", "ridge_wanda", "wanda"] and together == ["ridge_wanda"]
    assert not (both[1].path / "results/tiny-reasoner/compact/gsm_symbolic-s0/ridge_wanda/50/model").exists()


def test_one_job_a_model(both):
    apart, together = (len(list(b.path.glob("results/logs/*/eval/**/*.log"))) for b in both)
    assert (apart, together) == (12, 4)
    stems = {path.stem for path in both[1].path.glob("results/benchmarks/*/eval/**/*.tsv")}
    assert stems == {"gsm_symbolic+gsm_symbolic_options+gsm_symbolic_text"}
    for place in both:
        assert place.planned(*TARGETS) == {}


def test_a_single_task_more_asks_nothing_again(copies):
    _, together = copies
    logs = together.path.glob("results/tiny-reasoner/eval/**/.gsm_symbolic.*.jsonl")
    before = {path: path.read_bytes() for path in logs}
    more = "gsm_symbolic_wider_text"
    together.configure({"tables.table6.tasks": ["gsm_symbolic_text", more], "experiment.together": [[*ASKED, more]]})
    assert together.planned(*TARGETS)["evaluate_together_1"] == 4
    together.snakemake(*TARGETS)
    assert len(before) == 4 and all(path.read_bytes() == content for path, content in before.items())
    assert "Bigger numbers, perplexity" in (together.path / "results/table6.md").read_text()


def test_any_task_may_be_asked_of_any_variant_alone(copies):
    target = "results/tiny-reasoner/eval/gsm_symbolic-s0/wanda/30/arithmetic.samples.parquet"
    for place in copies:
        place.snakemake(target)
    apart, together = ((place.path / target).read_bytes() for place in copies)
    assert len(apart) > 0 and len(together) > 0
