"""Tables from small written artefacts: every number of it worked out by other means."""

import math
import re
import shutil
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

import report
from pruning.analysis import comparison
from pruning.config.default import DEFAULT
from pruning.config.methods import PREFIXES
from pruning.config.tasks import PerplexityTask
from pruning.core import artifacts, names
from pruning.core.errors import InputError
from pruning.report import notes, printing, result_tables
from pruning.report.tables import results

REPOSITORY = Path(__file__).resolve().parents[2]
PAPER = REPOSITORY / "resources/paper/table1.csv"
METHODS, SPARSITIES, CALIBS = ["wanda", "wanda_global", "rku", "agf"], [30, 50], ["gsm8k-s0", "gsm8k-s1"]
PAPER_MODEL, OTHER_MODEL = "qwen2_5-7b", "tiny"
RKU_30 = f"{PAPER_MODEL}/eval/{CALIBS[0]}/rku/30"
ITEMS = 60
# Which of 60 items each variant answers rightly, made so that every kind of mark occurs at 30%.
RIGHT = {
    ("dense", 0): range(54),
    ("wanda", 30): range(20),
    ("wanda_global", 30): range(1, 21),
    ("rku", 30): range(40),
    ("agf", 30): range(38),
    ("wanda", 50): range(10),
    ("wanda_global", 50): range(10),
    ("rku", 50): range(4, 16),
    ("agf", 50): range(8),
}
NATS = {"dense": 2.0, "wanda": 2.5, "wanda_global": 2.52, "rku": 3.0, "agf": 2.5}  # per token


def accuracy_samples(right, metric="exact_match,strict-match", items=ITEMS) -> pd.DataFrame:
    """Samples of a task in which the items `right` are answered rightly."""
    rows = [(i, f"{i:064x}", metric, float(i in right), 1, "7", "7", 12, "stop") for i in range(items)]
    columns = ["item", "item_hash", "metric", "value", "weight", "prediction", "target", "generated_tokens"]
    return pd.DataFrame(rows, columns=[*columns, "finish_reason"]).astype({"generated_tokens": "Int64"})


def perplexity_samples(nats) -> pd.DataFrame:
    """Forty windows of 100 tokens; every variant finds the same windows hard, apart from a little noise."""
    shared, own = np.random.default_rng(0), np.random.default_rng(round(1000 * nats))
    frame = accuracy_samples([], "perplexity", 40)
    value = 100 * (nats + shared.normal(0, 0.3, 40) + own.normal(0, 0.05, 40))
    return frame.assign(value=value, weight=100, generated_tokens=None, finish_reason=None)


class Study:
    """A `results` directory with two models, two calibrations, four methods, two sparsities and two tasks."""

    def __init__(self, directory: Path):
        self.results = directory / "results"
        self.outputs = {name: directory / f"table1.{name}" for name in ("csv", "md", "tex")}
        task = {"kind": "accuracy", "title": "GSM8K", "task": "gsm8k", "tuning": None}
        windows = {"kind": "perplexity", "title": "WikiText-2", "task": "wikitext2", "tuning": None}
        tasks = {"gsm8k": {"metrics": ["exact_match,strict-match"], **task}}
        tasks["wikitext2"] = {"metrics": ["perplexity"], **windows}
        calibrations = {calib: {"seed": seed} for seed, calib in enumerate(CALIBS)}
        models = {PAPER_MODEL: {"note": "weights are Q4_1-quantised", "dtype": "bfloat16"}, OTHER_MODEL: {"note": None}}
        self.published = directory / "published.csv"  # one row of the paper that two presets may stand for
        self.published.write_text(PAPER.read_text().replace(",wanda,", ",wanda;wanda_global,"))
        self.settings = {
            **{"name": "table1", "title": "Table 1: what pruning leaves of each model", "layout": "wide"},
            **{"paper": "table1", "reference": "wanda", "confidence": 0.95, "resamples": 200, "seed": 0},
            "models": {name: {**entry, "calibrations": calibrations} for name, entry in models.items()},
            **{"tasks": tasks, "methods": METHODS, "sparsities": SPARSITIES},
        }

    def build(self) -> None:
        for model in self.settings["models"]:
            self.write(model, "dense", RIGHT["dense", 0], NATS["dense"])
            for calib, method, sparsity in product(CALIBS, METHODS, SPARSITIES):
                path = f"{calib}/{method}/{sparsity}"
                self.write(model, path, RIGHT[method, sparsity], NATS[method] + sparsity / 100)
                achieved = sparsity / 100 + 0.012 * (method == "rku" and sparsity == 50)
                content = {"achieved_sparsity": achieved, "parameters": 1000, "parameters_kept": 1000 - 7 * sparsity}
                self.resize(model, path, content)

    def resize(self, model, variant, content) -> None:
        path = self.results / model / "eval" / variant / "gsm8k.json"
        artifacts.write_json(path, {"pruned": content}, "evaluation", {})

    def write(self, model, variant, right, nats) -> None:
        self.replace(model, variant, "gsm8k", accuracy_samples(right))
        self.replace(model, variant, "wikitext2", perplexity_samples(nats))

    def replace(self, model, variant, task, frame) -> None:
        path = self.results / model / "eval" / variant / f"{task}.samples.parquet"
        artifacts.write_parquet(path, frame, "samples", {})

    def rewrite(self, task, change, of="*/**") -> None:
        """Change the samples on a task of all variants, or of one of the paper's model."""
        for path in self.results.glob(f"{of}/{task}.samples.parquet"):
            artifacts.write_parquet(path, change(artifacts.read_parquet(path, "samples")), "samples", {})

    def run(self, *files) -> pd.DataFrame:
        """Make the table, from more files than its usual ones."""
        report.report(self.settings, "report/tables/results", [*self.outputs.values()], [*self.files, *files])
        return pd.read_csv(self.outputs["csv"])

    @property
    def text(self) -> str:
        return self.outputs["md"].read_text(encoding="utf-8")

    @property
    def files(self) -> list[str]:
        templates = {"samples": names.SAMPLES, "results": names.RESULT}
        files = [f"{name}={self.results.parent}/{template}" for name, template in templates.items()]
        paper = [f"published={self.published}", f"notes={PAPER.with_name('notes.yaml')}"]
        return files + (paper if self.settings["paper"] else [])


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A study with its table; not to be changed."""
    study = Study(tmp_path_factory.mktemp("study"))
    study.build()
    study.run()
    return study


@pytest.fixture
def study(tmp_path, written):
    """A copy to change, without its table."""
    study = Study(tmp_path)
    shutil.copytree(written.results, study.results)
    return study


@pytest.fixture(scope="module")
def frame(written):
    return pd.read_csv(written.outputs["csv"])


@pytest.fixture(scope="module")
def printed(written):
    return {name: path.read_text(encoding="utf-8") for name, path in written.outputs.items()}


def one(frame, method, sparsity, task="gsm8k", model=PAPER_MODEL, calib=CALIBS[0]) -> pd.Series:
    """The row of a cell; `sparsity` in per cent, as asked for. The CSV has fractions."""
    fraction = frame.sparsity == sparsity / 100
    where = (frame.model == model) & (frame.method == method) & fraction & (frame.task == task)
    chosen = frame[where & (frame.calib.isna() if calib is None else frame.calib == calib)]
    assert len(chosen) == 1
    return chosen.iloc[0]


def binomial_p(one_way, other_way) -> float:
    n = one_way + other_way
    return min(1, 2 * sum(math.comb(n, k) for k in range(min(one_way, other_way) + 1)) / 2**n)


# The tidy table


def test_columns_and_rows_are_those_promised(printed, frame):
    assert list(frame) == comparison.COLUMNS
    tasks = ["gsm8k", "wikitext2"]
    expected = []
    for model in (PAPER_MODEL, OTHER_MODEL):
        expected += [(model, "", "dense", 0, task) for task in tasks]
        expected += [(model, *row) for row in product(CALIBS, METHODS, [s / 100 for s in SPARSITIES], tasks)]
    found = frame.assign(calib=frame.calib.fillna(""))[["model", "calib", "method", "sparsity", "task"]]
    assert list(found.itertuples(index=False, name=None)) == expected
    dense, references = one(frame, "dense", 0, calib=None), frame[frame.method == "wanda"]
    assert (dense.value, dense.n, dense.achieved_sparsity, dense.params_removed) == (0.9, 60, 0, 0)
    assert dense[["calib", "seed", "tuning"]].isna().all() and dense["reference":"published"].isna().all()
    assert references.loc[:, "reference":"p_cluster_holm"].isna().all(axis=None)
    assert references[["value", "ci_low", "ci_high", "seed"]].notna().all(axis=None)


def test_accuracy_row_is_wilson_mcnemar_and_bootstrap(frame):
    row = one(frame, "rku", 50)  # 12 right; wanda alone on items 0-3, rku alone on 10-15
    assert (row.n, row.value, row.reference, row.test, row.discordant) == (60, 0.2, "wanda", "exact McNemar", 10)
    assert row.delta == pytest.approx(2 / 60, rel=1e-5)
    assert row.p_value == pytest.approx(binomial_p(4, 6), rel=1e-5)
    z, p, n = 1.959964, 0.2, 60
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    assert (row.ci_low, row.ci_high) == pytest.approx((centre - half, centre + half), rel=1e-5)
    error = math.sqrt((10 / 60 - (2 / 60) ** 2) / 60)
    expected = row.delta - 1.96 * error, row.delta + 1.96 * error
    assert (row.delta_low, row.delta_high) == pytest.approx(expected, abs=0.03)
    assert (row.achieved_sparsity, row.params_removed, row.seed) == (0.512, 0.35, 0)


def test_perplexity_row_is_a_t_test_over_blocks(frame):
    row, reference = one(frame, "rku", 30, "wikitext2"), one(frame, "wanda", 30, "wikitext2")
    samples, others = perplexity_samples(3.3).value, perplexity_samples(2.8).value
    assert row.value == pytest.approx(math.exp(samples.sum() / 4000), rel=1e-5)
    assert row.delta == pytest.approx(row.value - math.exp(others.sum() / 4000), rel=1e-4)
    assert row.delta == pytest.approx(row.value - reference.value, rel=1e-4)
    assert (row.n, row.windows, row.metric, row.test) == (4000, 40, "perplexity", "paired t over blocks of windows")
    assert row[["discordant", "clusters", "p_cluster"]].isna().all()
    blocks = [frame.to_numpy().reshape(8, 5).mean(1) / 100 for frame in (samples, others)]
    test = stats.ttest_rel(*blocks)
    low, high = test.confidence_interval(0.95)
    found = row[["delta_low", "delta_high", "p_value"]].tolist()
    assert found == pytest.approx([*(reference.value * np.expm1([low, high])), test.pvalue], rel=1e-4)
    low, high = stats.ttest_1samp(blocks[0], 0).confidence_interval(0.95)
    assert (row.ci_low, row.ci_high) == pytest.approx((math.exp(low), math.exp(high)), rel=1e-5)


def test_holm_covers_all_comparisons_of_a_model_and_calibration(frame):
    for _, block in frame[frame.calib.notna()].groupby(["model", "calib"]):
        compared = block[block.method != "wanda"].sort_values("p_value")
        assert len(compared) == 12  # 3 methods, 2 sparsities, 2 tasks
        running = 0
        for rank, (p, adjusted) in enumerate(zip(compared.p_value, compared.p_holm, strict=True)):
            running = max(running, min(1, (12 - rank) * p))
            assert adjusted == pytest.approx(running, rel=1e-4)
    row = one(frame, "rku", 30)
    assert row.p_value == pytest.approx(binomial_p(0, 20), rel=1e-5)
    assert row.p_holm == pytest.approx(10 * binomial_p(0, 20), rel=1e-5)  # rku's two perplexities have smaller p


def test_published_values_stand_beside_both_readings_of_the_papers_model_only(frame):
    published = {(m, s): one(frame, m, s).published for m, s in product(METHODS, SPARSITIES)}
    assert published["wanda", 30] == published["wanda_global", 30] == 0.1372
    assert published["wanda", 50] == published["wanda_global", 50] == 0.019
    assert (published["rku", 30], published["rku", 50], published["agf", 50]) == (0.3434, 0.0364, 0.0311)
    assert frame[frame.model == OTHER_MODEL].published.isna().all()
    assert frame[frame.task == "wikitext2"].published.isna().all()


def test_published_value_of_another_metric_is_not_shown(study):
    study.rewrite("gsm8k", lambda samples: samples.assign(metric="exact_match,flexible-extract"))
    study.settings["tasks"]["gsm8k"]["metrics"] = ["exact_match,flexible-extract"]
    assert study.run().published.isna().all()


def test_neither_order_nor_other_metrics_matter_and_bytes_repeat(study, written):
    other = accuracy_samples(range(60), "exact_match,flexible-extract")
    study.rewrite(
        "gsm8k", lambda samples: pd.concat([other, samples.sample(frac=1, random_state=int(samples.value.sum()))])
    )
    study.run()
    for name, path in study.outputs.items():
        assert path.read_bytes() == written.outputs[name].read_bytes() and b"\r" not in path.read_bytes()


# What is refused


EARLY = {"after": 20, "below": 0.7, "confidence": 0.99}


@pytest.mark.parametrize(
    ("task", "change", "fragments"),
    [
        (
            "gsm8k",
            lambda s: s.assign(item_hash=s.item_hash.where(s.item < 57, "ff")),
            [
                f"gsm8k: {PAPER_MODEL}/dense and {PAPER_MODEL}/{CALIBS[0]}/rku/30",
                "3 of 60 differ",
                f"item 57: hash {57:064x}, weight 1 against hash ff",
            ],
        ),
        ("gsm8k", lambda s: s[s.item != 7], ["1 of 60 differ, e.g. item 7", "against absent"]),
        ("early", lambda s: s[s.item < 19], ["41 of 60 differ, e.g. item 19"]),
        (
            "wikitext2",
            lambda s: s.assign(weight=s.weight + (s.item == 3)),
            ["wikitext2: ", "1 of 40 differ", "weight 100 against"],
        ),
        ("gsm8k", lambda s: s.assign(metric="acc"), ["rku/30", "'exact_match,strict-match'", "found acc"]),
        ("gsm8k", lambda s: s.assign(value=s["value"] / 2), ["item 0 is 0.5", "0 or 1", "tasks.gsm8k.kind"]),
        ("gsm8k", lambda s: s.assign(value=math.nan), ["item 0 is nan"]),
        ("wikitext2", lambda s: s.assign(value=math.nan), ["wikitext2", "rku/30", "finite"]),
        ("wikitext2", lambda s: s.assign(weight=0), ["wikitext2", "rku/30", "at least one token"]),
    ],
)
def test_broken_and_other_samples_are_refused(study, task, change, fragments):
    """One variant's samples are changed; nothing may have been written."""
    if task == "early":
        study.settings["tasks"]["gsm8k"]["stop_early"], task = EARLY, "gsm8k"
    study.rewrite(task, change, RKU_30)
    with pytest.raises(InputError) as error:
        study.run()
    assert all(fragment in str(error.value) for fragment in fragments), error.value
    assert not any(output.exists() for output in study.outputs.values())


@pytest.mark.parametrize(("metric", "key"), [("acc", "metrics"), ("exact_match,strict-match", "kind")])
def test_what_to_fix_of_a_column_after_a_recovery_is_its_tasks(metric, key):
    halves = accuracy_samples([]).assign(value=0.5)
    with pytest.raises(InputError, match=rf"^t@lora, c/rku/30/lora: .*fix tasks\.t\.{key}$"):
        comparison.outcomes_of(halves, "c/rku/30/lora", "t@lora", metric, "accuracy")


def test_a_model_that_stopped_early_is_compared_on_what_it_was_asked(study, frame):
    """Of the first 20 items `agf` at 50% has 8 right, the reference those 8 and two more."""
    study.settings["tasks"]["gsm8k"]["stop_early"] = EARLY
    study.rewrite("gsm8k", lambda samples: samples[samples["item"] < 20], f"{PAPER_MODEL}/eval/{CALIBS[0]}/agf/50")
    found = study.run()
    row = one(found, "agf", 50)
    assert (row.n, row.value, row.discordant) == (20, 0.4, 2)
    assert row.delta == pytest.approx(-0.1) and row.p_value == pytest.approx(binomial_p(0, 2))
    others = found["method"] != "agf"
    columns = ["n", "value", "delta", "p_value"]
    pd.testing.assert_frame_equal(found.loc[others, columns], frame.loc[others, columns])
    note = (
        "gsm8k: `agf` at 50% were evaluated and compared on the first 20 items alone: the upper end of the 99% "
        "interval was below 70% there."
    )
    printed = study.text
    assert printed.count(note) == 1 and "the same for all variants, but for those that stopped early." in printed


# The printed table


def markdown_row(text, label, block=0) -> list[str]:
    line = [line for line in text.split("\n## ")[1 + block].splitlines() if line.startswith(f"| {label}")][0]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_markdown_has_the_papers_layout(printed):
    text = printed["md"]
    assert text.count("\n## ") == 6  # two models, each with two calibrations and the spread over them
    headings = re.findall(r"^## .*`(\S+)` pruned by each method, calibrated on `(\S+)`$", text, re.M)
    assert headings == list(product([PAPER_MODEL, OTHER_MODEL], CALIBS))
    assert markdown_row(text, "Method")[1:] == ["30%: GSM8K", "30%: WikiText-2", "50%: GSM8K", "50%: WikiText-2"]
    labels = re.findall(r"^\| (\S.*?) +\|", text.split("\n## ")[1], re.M)
    assert labels == ["Method", "dense", "`wanda` (reference)", "`wanda_global`", "`rku`", "`agf`"]
    lines = [line for line in text.split("\n## ")[1].splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1
    assert {line.count("|") for line in lines} == {6}


def test_markdown_cells_carry_interval_marks_and_published_value(printed):
    cells = {label: markdown_row(printed["md"], label)[1] for label in ("`wanda` ", "`wanda_g", "`rku`", "`agf`")}
    assert cells["`rku`"] == "**66.7** [54.1, 77.3] (paper 34.34, +32.3)"  # best, and better than the reference
    assert cells["`agf`"] == "63.3 [50.7, 74.4] † (paper 27.59, +35.7)"  # 2 discordant items with rku, p = 0.5
    assert cells["`wanda` "] == "33.3 [22.7, 45.9] (paper 13.72, +19.6)"  # worse than rku, p = 2 / 2^20
    assert cells["`wanda_g"] == "33.3 [22.7, 45.9] n.s. (paper 13.72, +19.6)"
    assert markdown_row(printed["md"], "dense")[1::2] == ["90.0 [79.9, 95.3]"] * 2
    assert markdown_row(printed["md"], "`rku`", block=3)[1] == "**66.7** [54.1, 77.3]"  # not the paper's model


@pytest.mark.parametrize(
    ("changes", "marks", "published"),
    [
        ({"value": 0.137, "published": 0.1372}, (), "paper 13.72, +0.0"),  # never minus zero
        ({"value": 0.12, "published": 0.1372}, (), "paper 13.72, −1.7"),
        ({"p_value": 0.01, "p_holm": 0.12}, ("n.s.",), ""),
        ({"p_value": 0.2, "p_holm": 0.2, "reference": None}, (), ""),
        ({"p_holm": math.nan}, ("n.s.",), ""),
        ({"clusters": 12, "p_cluster_holm": 0.04}, (), ""),
        ({"clusters": 12, "p_cluster_holm": 0.06}, ("n.s.",), ""),
        ({"clusters": 12, "p_cluster_holm": math.nan}, ("n.s.",), ""),
        ({"clusters": pd.NA, "p_cluster_holm": 0.06}, (), ""),
        ({"cut_off": 0.0512, "p_holm": 0.12}, ("n.s.", "5.1% cut off"), ""),
        ({"cut_off": 0.0}, (), ""),
    ],
)
def test_a_cell_has_its_marks_after_holm_both_ways_and_the_papers_value(changes, marks, published):
    row = {"kind": "accuracy", "value": 0.2, "ci_low": 0.1, "ci_high": 0.3, "best": False, "near_best": False}
    row |= {"reference": "wanda", "p_holm": 0.04, "published": math.nan, "cut_off": math.nan, **changes}
    cell = results._cell(row, 0.95)
    assert (cell.marks, cell.published) == (marks, published)


def cluster_test(ours, reference) -> tuple[float, float]:
    """(design effect, p) of items whose cluster is their number modulo 6, ten in each: scipy's t-test of the means."""
    difference = np.array([(i in ours) - (i in reference) for i in range(ITEMS)], dtype=float)
    means = difference.reshape(10, 6).mean(0)
    return 10 * means.var(ddof=1) / difference.var(ddof=1), stats.ttest_1samp(means, 0).pvalue


def test_items_that_share_templates_are_tested_by_template_as_well(study):
    """At 30% all of rku's twenty more right items are of two templates: McNemar is sure of it, templates are not."""
    two = [i for i in range(20, ITEMS) if i % 6 in (2, 3)]
    for model, calib in product(study.settings["models"], CALIBS):
        study.replace(model, f"{calib}/rku/30", "gsm8k", accuracy_samples([*range(20), *two]))
        study.replace(model, f"{calib}/agf/30", "gsm8k", accuracy_samples(range(37)))
    study.rewrite("gsm8k", lambda samples: samples.assign(cluster=(samples["item"] % 6).astype(str).astype("string")))
    frame = study.run()
    assert frame[frame.task == "gsm8k"].clusters.eq(6).all() and frame[frame.task != "gsm8k"].clusters.isna().all()
    row = one(frame, "rku", 30)
    effect, p = cluster_test([*range(20), *two], range(20))
    assert row[["discordant", "design_effect", "p_cluster"]].tolist() == pytest.approx([14, effect, p], rel=1e-4)
    assert row.p_holm < 0.05 < row.p_cluster < row.p_cluster_holm
    agf = one(frame, "agf", 30)
    assert agf.p_cluster == pytest.approx(cluster_test(range(37), range(20))[1], rel=1e-4)
    assert agf.p_cluster_holm == pytest.approx(6 * agf.p_cluster, rel=1e-4)  # 3 methods, 2 sparsities, 1 task
    text = study.text
    assert "n.s." in markdown_row(text, "`rku`")[1] and "n.s." not in markdown_row(text, "`agf`")[1]
    block = frame[(frame.model == PAPER_MODEL) & (frame.calib == CALIBS[0])]
    note = [line for line in text.split("\n## ")[1].splitlines() if "share templates" in line][0]
    assert "(GSM8K 6)" in note and "with other instances" in note and "others of the same kind" in note
    assert "over its own 6 comparisons" in note
    assert f"median {block.design_effect.median():.1f}, largest {block.design_effect.max():.1f}" in note
    study.settings |= {"reference": f"{CALIBS[0]}/wanda"}
    study.run()
    text = study.text
    assert text.count("over its own 14 comparisons") == 4  # 8 models of each text, but for the one


def test_best_perplexity_is_the_lowest(printed, frame):
    cells = {label: markdown_row(printed["md"], label)[2] for label in ("`wanda` ", "`wanda_g", "`rku`", "`agf`")}
    values = {m: one(frame, m, 30, "wikitext2").value for m in METHODS}
    assert min(values, key=values.get) in ("wanda", "agf")  # the same text up to noise
    assert [cell.startswith("**") for cell in cells.values()] == [values[m] == min(values.values()) for m in METHODS]
    assert cells["`rku`"].startswith(f"{values['rku']:.2f} [")
    assert "†" not in cells["`rku`"]
    assert "n.s." not in cells["`rku`"]


def clustered(right) -> pd.DataFrame:
    return accuracy_samples(right).assign(cluster=[str(i % 6) for i in range(ITEMS)])


@pytest.mark.parametrize(
    ("samples", "best", "near"),
    [
        ([accuracy_samples(range(n)) for n in (5, 5, 4)], [1, 1, 0], [0, 0, 1]),  # ties are all best
        # 6 discordant items, all one way: p = 0.03, 0.06 for the second of two such methods.
        ([accuracy_samples(own) for own in (range(20), range(14), range(6, 20))], [1, 0, 0], [0, 1, 1]),
        ([accuracy_samples(range(20)), accuracy_samples(range(14))], [1, 0], [0, 0]),
        # Twenty right items more: of all templates alike, or of two of six.
        ([accuracy_samples([i for i in range(ITEMS) if i % 6 in (2, 3)]), accuracy_samples([])], [1, 0], [0, 0]),
        ([clustered([i for i in range(ITEMS) if i % 6 in (2, 3)]), clustered([])], [1, 0], [0, 1]),
    ],
)
def test_the_best_and_what_is_not_worse_after_holm_and_by_templates(samples, best, near):
    rows = []
    for outcomes in samples:
        row = {"method": "m", "calib": "c", "group": "30%", "column": "t", "metric": "acc", "kind": "accuracy"}
        rows.append(row | {"samples": outcomes, **comparison.measure(outcomes, "accuracy", {"confidence": 0.95})})
    comparison._mark_best(rows, 0.95)
    assert [row["best"] for row in rows] == best and [row["near_best"] for row in rows] == near


@pytest.mark.parametrize("name", ["md", "tex"])
def test_notes_say_all_a_reader_needs(printed, name):
    text = printed[name].replace("\\texttt{", "`").replace("}", "`").replace("\\", "").replace("$", "")
    first = text.split("## " if name == "md" else "caption{")[1]
    for fragment in [
        "weights are Q4_1-quantised",
        "Answers were generated in bfloat16",
        "Wilson's 95% interval",
        "95% t interval over blocks of neighbouring windows",
        "calibration seed 0 only",
        "GSM8K n = 60 items",
        "WikiText-2 n = 4,000 predicted tokens in 40 windows (`perplexity`)",
        "reference method, `wanda`",
        "exact McNemar for accuracy, paired t over blocks of windows for perplexity",
        "p > 0.05 after Holm's adjustment over the 12 comparisons",
        "chosen by looking at these items",
        "parameters removed: 21.0% at sparsity 30%; 35.0% at sparsity 50%",
        "0.5 points off the nominal one: `rku` at 50%: 51.2%.",
        "Wanda-Struct = `wanda` or `wanda_global`",
        "never a reproduction claim",
        "z = 0.8",
        "6 of 12 cells",
    ]:
        assert fragment in first, fragment
    assert not re.search(r"\bp = ", text)
    assert "templates" not in text and "fewer than" not in text
    if name == "md":
        assert all(block.count("\n* ") <= 5 for block in text.split("\n## "))


def test_the_spread_over_calibrations_is_their_mean_deviation_and_range(study):
    study.write(PAPER_MODEL, f"{CALIBS[1]}/rku/30", range(46), 2.9)
    study.run()
    text = study.text.split("\n## ")[3]
    assert text.startswith(f"`{PAPER_MODEL}`: spread over calibrations")
    deviation = (46 / 60 - 40 / 60) / math.sqrt(2)  # of two values
    assert f"71.7 ± {100 * deviation:.1f} [66.7, 76.7]" in markdown_row("\n## " + text, "`rku`")[1]
    assert "`gsm8k-s0` (seed 0), `gsm8k-s1` (seed 1)" in text


def test_long_tables_have_a_row_a_method_and_sparsity(study):
    study.settings["layout"] = "long"
    study.run()
    text = study.text
    assert markdown_row(text, "Method")[1:] == ["GSM8K", "WikiText-2"]
    labels = re.findall(r"^\| (\S.*?) +\|", text.split("\n## ")[1], re.M)
    assert labels[:4] == ["Method", "dense", "`wanda` (reference), 30%", "`wanda_global`, 30%"]
    assert len(labels) == 2 + len(METHODS) * len(SPARSITIES)
    assert "multicolumn" not in study.outputs["tex"].read_text(encoding="utf-8")


@pytest.mark.parametrize("layout", ["wide", "long"])
def test_at_equal_cost_each_method_has_its_own_sparsity_and_is_compared_there(study, written, layout):
    at = {"wanda": 50, "wanda_global": 30, "rku": 30, "agf": 50}
    study.settings |= {"at": at, "sparsities": None, "layout": layout}
    frame = study.run()
    assert len(frame) == 2 * (2 + 2 * 4 * 2)  # models, tasks of dense, calibrations and methods
    whole = pd.read_csv(written.outputs["csv"])
    for method, sparsity in at.items():
        ours, alone = one(frame, method, sparsity), one(whole, method, sparsity)
        assert (ours.value, ours.ci_low, ours.achieved_sparsity) == (alone.value, alone.ci_low, alone.achieved_sparsity)
    rku, others = one(frame, "rku", 30), set(RIGHT["wanda", 50])
    assert rku.delta == pytest.approx((40 - 10) / 60) and rku.reference == "wanda"
    ways = len(set(range(40)) - others), len(others - set(range(40)))
    assert (rku.discordant, rku.p_value) == (sum(ways), pytest.approx(binomial_p(*ways), rel=1e-4))
    text, tex = (study.outputs[form].read_text(encoding="utf-8") for form in ("md", "tex"))
    assert "`wanda`, at equal cost" in text and "the same sparsity" not in text
    assert markdown_row(text, "`rku`, 30%")[1].startswith("**66.7**")
    assert "equal cost sparsity" not in tex and ("{equal cost}" in tex) == (layout == "wide")


def test_recovered_models_are_compared_with_themselves_before(study):
    plain = study.settings["tasks"]["gsm8k"]
    study.settings |= {"tasks": {"gsm8k": plain, "gsm8k@lora": {**plain, "tuning": "lora"}}, "reference": "untuned"}
    study.settings["models"] = {OTHER_MODEL: {"note": None, "calibrations": {CALIBS[0]: {"seed": 0}}}}
    for method, sparsity in product(METHODS, SPARSITIES):
        right = set(RIGHT[method, sparsity]) | set(range(50, 58))
        study.replace(OTHER_MODEL, f"{CALIBS[0]}/{method}/{sparsity}/lora", "gsm8k", accuracy_samples(right))
    frame = study.run()
    tuned = frame[frame.tuning == "lora"]
    assert (tuned.reference == "untuned").all()
    assert tuned.delta.tolist() == pytest.approx([8 / 60] * 8, rel=1e-4)
    assert tuned.p_value.tolist() == pytest.approx([binomial_p(0, 8)] * 8, rel=1e-4)
    assert frame[frame.tuning.isna()].reference.isna().all()
    header = markdown_row(study.text, "Method")
    assert header[1:3] == ["30%: GSM8K", "30%: GSM8K (tuned on lora)"]
    assert "Columns without `tuned on`: the pruned" in study.text


def test_all_models_may_be_compared_with_the_dense_one_and_their_divergence_from_it_has_no_test(study):
    """Divergences here are a hundredth of the windows' surprise. The dense model's is 0, and equal in all windows."""
    entry = study.settings["tasks"]["wikitext2"]
    study.settings["tasks"]["wikitext2"] = {**entry, "metrics": ["perplexity", "kl"]}
    models = {OTHER_MODEL: {"note": None, "calibrations": {CALIBS[0]: {"seed": 0}}}}
    study.settings |= {"reference": "dense", "models": models}
    for path in (study.results / OTHER_MODEL).rglob("wikitext2.samples.parquet"):
        windows = artifacts.read_parquet(path, "samples")
        divergences = windows.assign(metric="kl", value=(path.parent.name != "dense") * 0.01 * windows["value"])
        artifacts.write_parquet(path, pd.concat([windows, divergences], ignore_index=True), "samples", {})
    frame = study.run()
    pruned, divergences = frame[frame.method != "dense"], frame[frame.metric == "kl"].set_index(["method", "sparsity"])
    assert set(pruned[pruned.metric != "kl"].reference) == {"dense"} and divergences.reference.isna().all()
    assert pruned.p_holm.notna().sum() == pruned.p_value.notna().sum() == 16 and pruned.calib.notna().all()
    row = one(frame, "rku", 30, model=OTHER_MODEL)
    dense, pruned = set(RIGHT["dense", 0]), set(RIGHT["rku", 30])
    lost, won = len(dense - pruned), len(pruned - dense)
    assert [row.p_value, row.delta] == pytest.approx([binomial_p(lost, won), (won - lost) / 60], rel=1e-3)
    assert divergences.loc[("dense", 0), ["value", "ci_low", "ci_high"]].tolist() == [0, 0, 0]
    nats = np.log(frame[(frame.metric == "perplexity")].set_index(["method", "sparsity"]).value)
    assert divergences.value["rku", 0.3] == pytest.approx(nats["rku", 0.3] / 100, rel=1e-3)
    assert "significantly different from the dense model (exact McNemar for accuracy, paired t" in study.text
    assert "kl, KL divergence of next tokens from the dense model's in nats per token" in study.text


def test_ridge_is_compared_with_the_same_method_without(study):
    for model, calib, sparsity in product([PAPER_MODEL, OTHER_MODEL], CALIBS, SPARSITIES):
        path = f"{calib}/ridge_rku/{sparsity}"
        twin = artifacts.read_json(study.results / model / f"eval/{calib}/rku/{sparsity}/gsm8k.json", "evaluation")
        study.resize(model, path, twin["pruned"])
        study.replace(model, path, "wikitext2", perplexity_samples(NATS["rku"] + sparsity / 100))
        study.replace(model, path, "gsm8k", accuracy_samples(set(RIGHT["rku", sparsity]) | set(range(50, 60))))
    study.settings |= {"methods": ["wanda", "rku", "ridge_rku"], "reference": "uncompensated"}
    frame = study.run()
    assert set(frame[frame.reference.notna()].method) == {"ridge_rku"}
    row = one(frame, "ridge_rku", 30)
    assert (row.reference, row.discordant, row.delta) == ("rku", 10, pytest.approx(10 / 60, rel=1e-4))


def test_every_prefix_that_changes_the_compensation_is_compared_with_the_same_method_without():
    for prefix, changes in PREFIXES.items():
        assert bool(comparison.COMPENSATION.match(f"{prefix}_rku")) == ("compensate" in changes)


def test_another_text_is_compared_method_by_method(study):
    """On the second text `rku` at 30% answers 8 of the first text's 40 wrongly and three others rightly."""
    path = f"{CALIBS[1]}/rku/30"
    study.replace(PAPER_MODEL, path, "gsm8k", accuracy_samples({*range(8, 43)}))
    study.settings |= {"reference": CALIBS[0]}
    frame = study.run()
    assert frame[frame.calib == CALIBS[0]].reference.isna().all()
    row = one(frame, "rku", 30, calib=CALIBS[1])
    assert (row.reference, row.discordant, row.delta) == (f"{CALIBS[0]}/rku", 11, pytest.approx(-5 / 60, rel=1e-4))
    assert row.p_value == pytest.approx(binomial_p(8, 3), rel=1e-5)
    first, second = study.text.split("calibrated on `gsm8k-s1`")[:2]
    assert "n.s." not in first and "(reference)" not in first
    said = "not significantly different from the same method calibrated on `gsm8k-s0`, at the same sparsity"
    assert said in second and "over the 16 comparisons" in second


def test_one_model_of_another_text_is_what_all_are_compared_with(study):
    study.settings |= {"reference": f"{CALIBS[0]}/wanda"}
    frame = study.run()
    assert set(frame.reference.dropna()) == {"wanda", f"{CALIBS[0]}/wanda"}
    assert one(frame, "wanda", 30, calib=CALIBS[0])[["reference", "p_value"]].isna().all()
    row = one(frame, "rku", 30, calib=CALIBS[1])
    assert (row.reference, row.discordant) == (f"{CALIBS[0]}/wanda", 20)
    for _, rows in frame[frame.p_value.notna()].groupby("model"):  # one family over both texts
        assert len(rows) == (8 + 6) * 2
        assert rows.p_holm.tolist() == pytest.approx(multipletests(rows.p_value, method="holm")[1].tolist(), rel=1e-4)
    text = study.text
    assert text.count("`wanda` (reference)") == 2 and "over the 28 comparisons" in text  # once a model
    assert "not significantly different from `wanda` calibrated on `gsm8k-s0`" in text


def test_generation_and_leakage_stand_beside_accuracy(study, tmp_path):
    samples = accuracy_samples(RIGHT["rku", 30]).assign(repetition=0.25)
    samples.loc[:14, ["prediction", "finish_reason"]] = ["[invalid]", "length"]
    study.replace(PAPER_MODEL, f"{CALIBS[0]}/rku/30", "gsm8k", samples)
    leaks = {"source": CALIBS[0], "task": "gsm8k", "items": 60, "identical": 0, "overlapping": 7, "n": 8}
    artifacts.write_csv(tmp_path / "leakage.csv", pd.DataFrame([leaks]), {})
    row = one(study.run(f"leakage={tmp_path}/leakage.csv"), "rku", 30)
    assert (row.mean_tokens, row.cut_off, row.no_answer, row.repetition) == (12, 0.25, 0.25, 0.25)
    assert "`gsm8k` against `gsm8k-s0`: 0 identical, 7 sharing half of their 8-grams, of 60" in study.text
    assert study.text.count("25.0% cut off") == 1 and "Warning" not in study.text  # the dense model's answers end


def test_leaks_of_a_tuning_are_told_from_those_of_a_calibration_of_its_name():
    rows = [{"task": "t", "items": 60, "identical": 0, "overlapping": 0, "n": 8, "source": "own"}]
    rows.append({**rows[0], "source": "tunings.own", "identical": 1})
    pruned = pd.DataFrame({"calib": ["own"], "tuning": ["own"]})
    said = notes.leakage(pruned, {"tasks": {"t": {"task": "t"}}, "leakage": rows})
    assert "`t` against `tunings.own`: 1 identical" in " ".join(said)


def test_tests_that_were_not_made_are_not_named():
    """Of divergence from the dense model there is none to make against that model."""
    rows = {"kind": ["perplexity", "divergence"], "p_value": [0.5, None], "compared": [1, 1], "p_cluster": [None] * 2}
    dense = pd.DataFrame({"clusters": [None], "task": "t", "column": "t"})
    settings = {"reference": "dense", "methods": [], "confidence": 0.95, "layout": "wide"}
    [said, _] = notes.tests(dense, pd.DataFrame(rows), settings)
    assert "from the dense model (paired t over blocks of windows for perplexity; p > 0.05" in said


@pytest.mark.parametrize("cut, warned", [(3, False), (4, True)])  # of 60: 5 and 6.7 per cent
def test_dense_answers_that_are_cut_off_are_warned_of(study, printed, cut, warned):
    assert "% cut off" not in printed["md"]
    samples = accuracy_samples(RIGHT["dense", 0])
    samples.loc[: cut - 1, "finish_reason"] = "length"
    study.replace(PAPER_MODEL, "dense", "gsm8k", samples)
    study.run()
    first, second = study.text.split(f"## `{OTHER_MODEL}`")[0], study.text.split(f"## `{OTHER_MODEL}`")[1]
    share = f"{100 * cut / 60:.1f}%"
    assert f"{share} cut off" in first and "reached the token limit" in first and "% cut off" not in second
    warning = f"Warning: of the dense model's answers {share} (`gsm8k`) were cut off, more than 5%: "
    assert (warning in first) == warned


def test_methods_that_cut_groups_or_keep_to_a_speed_say_so(study, printed):
    groups = "`heads` are pruned as well, and count as neurons of as many parameters."
    assert groups not in printed["md"]
    kept_to = {"rku": "decode", "random": "flops", "taylor_fo": "prefill"}
    others = dict.fromkeys(["rku", "taylor_fo"], "`kv_groups`") | {"wanda": "`heads`"}
    study.settings |= {"others": others, "ranked": ["rku", "wanda"], "kept_to": kept_to}
    study.run()
    text = study.text
    for said in (
        f" `wanda`: {groups} ",
        " `rku` loses neurons and `kv_groups` that take as much time for a token, on average, as this share of "
        "neurons, by times measured on this machine, noise included (latency_table.parquet): of parameters another "
        "share is removed.",
        " `random` takes no more operations for a prompt than a model whose layers have all lost this share of their "
        "neurons, by arithmetic (latency_table.parquet): of parameters another share is removed.",
        " `taylor_fo` takes no more time for a prompt than a model",
    ):
        assert said in text


def test_what_models_took_is_a_block_of_its_own(study, tmp_path):
    path = tmp_path / f"benchmarks/{PAPER_MODEL}/scores/{CALIBS[0]}/rku.tsv"
    path.parent.mkdir(parents=True)
    path.write_text("s\tmax_rss\trule_name\n61\t900\tscore\n")
    passes = dict.fromkeys(study.settings["methods"], ["shards"])
    own = {"folder": str(tmp_path / "benchmarks"), "passes": passes, "searched": ["rku"], "cut_as": {}}
    study.settings = {**study.settings, "costs": own}
    cuts = pd.DataFrame({"layer": [0, 1], "width": [4, 4], "divergence": [0.1, 0.3], "passes": [2.5, 1234.4]})
    for model, entry in study.settings["models"].items():
        for calib in entry["calibrations"]:
            artifacts.write_parquet(tmp_path / model / calib / "rku.parquet", cuts, "sensitivity", {})
    study.run(f"sensitivity={tmp_path}/{{model}}/{{calib}}/{{method}}.parquet")
    block = study.text.split(f"## What it takes: {PAPER_MODEL}, calibrated on {CALIBS[0]}")[1]
    cells = next(line for line in block.splitlines() if line.startswith("| `rku`")).split("|")
    assert [cell.strip() for cell in cells[2:7]] == ["0", "61", "1,234", "0", "900"]
    assert next(line for line in block.splitlines() if line.startswith("| `wanda`")).split("|")[4].strip() == "–"


def test_notes_of_another_model_do_not_mention_the_paper(printed):
    other = printed["md"].split("\n## ")[4]
    assert OTHER_MODEL in other.splitlines()[0]
    assert not any(word in other for word in ("paper", "quantised", "bfloat16"))
    assert "calibration seed 1 only" in printed["md"].split("\n## ")[5]


def test_notes_on_how_questions_were_put_and_on_small_things():
    plain = {"num_fewshot": None, "shared_examples": False, "chat_template": False, "max_gen_toks": None, "first": 0}
    chat = {**plain, "num_fewshot": 0, "chat_template": True, "max_gen_toks": 320}
    shots = {**plain, "num_fewshot": 3, "shared_examples": True, "first": 1000}
    entries = {"a": ("GSM8K", chat), "b": ("Training", shots), "c": ("AQuA", plain), "d": ("Text", None)}
    settings = {"tasks": {name: {"title": title, "asked": asked} for name, (title, asked) in entries.items()}}
    assert notes.asked(settings) == [
        "GSM8K: no worked examples, the model's chat format, answers of at most 320 tokens.",
        "Training: 3 worked examples, the same ones before every question, items from number 1,000 on.",
    ]
    pruned = pd.DataFrame({"kind": ["accuracy"], "seed": [0], "cut_off": [0.0]})
    for tokens, dtype, warned in (([88.0, None], "bfloat16", 1), ([88.0, None], None, 0), ([None], "bfloat16", 0)):
        dense = pd.DataFrame({"metric": "acc", "mean_tokens": tokens, "cut_off": 0.0})
        assert ("in bfloat16" in " ".join(notes.cells(dense, pruned, dtype, 0.95))) == warned
    rows = [("a", 30, 0.305, 0.2), ("b", 30, 0.2949, 0.21), ("c", 30, 0.295, 0.2)]  # half a point is no deviation
    pruned = pd.DataFrame(rows, columns=["method", "sparsity", "achieved_sparsity", "params_removed"])
    said = notes.removed(pruned, {})
    assert said[0].endswith("20.0–21.0% at sparsity 30%.") and said[1].endswith("nominal one: `b` at 30%: 29.5%.")


@pytest.mark.parametrize(
    ("task", "title", "said"),
    [
        ({"per": "byte"}, " (pieces of 256 bytes)", "bytes in 39 pieces (fewer than 40 pieces:"),
        ({}, " (seqlen 256)", "predicted tokens in 39 windows (fewer than 40 windows:"),
        ({"prompt": "{question}"}, ", each after its prompt", "predicted tokens in 39 records (fewer than 40 records:"),
        ({"prompt": "{question}", "per": "byte"}, ", each after its prompt", "bytes in 39 records (fewer than"),
    ],
)
def test_texts_are_counted_in_tokens_or_bytes_and_in_what_they_are_cut_into(task, title, said):
    config = DEFAULT.model_copy(deep=True)
    asked = {key: value for key, value in config.tasks["gsm_symbolic_text"].model_dump().items() if key not in task}
    config.tasks["t"] = PerplexityTask(**asked | task | {"title": "Text"})
    entry = result_tables.described(config, names.Column("t"))
    assert entry["title"] == f"Text{title}"
    row = {"task": "t", "column": "t", "kind": entry["kind"], "metric": entry["metrics"][0], "n": 90_000, "windows": 39}
    none = pd.DataFrame(columns=["column", "n", "calib", "tuning"])
    found, *_ = notes.measured_on(pd.DataFrame([row]), none, {"tasks": {"t": entry}})
    assert f"Text{title} n = 90,000 {said}" in found


def test_templates_are_no_matter_of_tests_where_nothing_is_compared():
    settings = {"tasks": {"gsm8k": {"task": "gsm8k", "title": "GSM8K"}}, "reference": "wanda", "layout": "wide"}
    dense = pd.DataFrame({"task": ["gsm8k"], "column": ["gsm8k"], "clusters": [22]})
    said = " ".join(notes.tests(dense, pd.DataFrame({"p_value": [None], "p_cluster": [None]}), settings))
    assert "(GSM8K 22): Wilson's interval" in said and "McNemar" not in said and "n.s." not in said


def test_tasks_with_two_metrics_have_a_column_each(study):
    study.rewrite("gsm8k", lambda samples: pd.concat([samples, samples.assign(metric="exact_match,flexible-extract")]))
    study.settings["tasks"]["gsm8k"]["metrics"].append("exact_match,flexible-extract")
    study.run()
    header = markdown_row(study.text, "Method")
    assert header[1:3] == ["30%: GSM8K (exact_match,strict-match)", "30%: GSM8K (exact_match,flexible-extract)"]
    assert "acc_norm" not in study.text


def test_one_window_has_a_perplexity_without_interval_and_no_significance(study):
    study.rewrite("wikitext2", lambda samples: samples[:1])
    row = one(study.run(), "rku", 30, "wikitext2")
    assert row[["ci_low", "ci_high", "delta_low", "delta_high", "p_value", "p_holm"]].isna().all()
    cell = markdown_row(study.text, "`rku`")[2]
    assert re.fullmatch(r"\d+\.\d+ \[–, –\] † n\.s\.", cell)


def test_tex_is_balanced_and_every_line_fills_the_table(printed):
    text = printed["tex"]
    for environment in ("table*", "tabular", "minipage"):
        assert text.count(f"\\begin{{{environment}}}") == text.count(f"\\end{{{environment}}}") == 6
    plain = text.replace("\\{", "").replace("\\}", "")
    assert plain.count("{") == plain.count("}")
    assert not re.search(r"(?<!\\)[%#]", "\n".join(text.splitlines()[1:]))
    bodies = re.findall(r"\\begin\{tabular\}\{lcccc\}(.*?)\\end\{tabular\}", text, re.S)
    assert len(bodies) == 6
    for line in "".join(bodies).splitlines():
        if line.endswith(r"\\"):
            cells = line.count(" & ") + sum(int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d)\}", line))
            assert cells == 4, line
    for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\cmidrule(lr){2-3} \cmidrule(lr){4-5}"):
        assert rule in text
    assert not set("†−–") & set(text)
    assert r"\texttt{wanda\_global} & 33.3\,n.s. & " in text
    assert r"\texttt{rku} & \textbf{66.7} & " in text
    assert r"{\scriptsize [54.1, 77.3]}" in text
    assert re.sub(r"\\(label|ref)\{.*\}", "", text).count("_") == text.count("\\_")


@pytest.mark.parametrize("rows", [printing.LONG, printing.LONG + 1])
def test_tex_of_many_rows_has_a_line_each(rows):
    cells = [printing.Cell("1.5", "[1, 2]", published="3.0, -1.5"), printing.Cell("–", "")]
    block = printing.Block("b", "B", ["x", "y"], [(f"r{i}", cells) for i in range(rows)], [])
    body = printing.Page("t", "T", pd.DataFrame(), [block]).tex.split(r"x & y \\")[1].split(r"\bottomrule")[0]
    small = [r"{\scriptsize [1, 2]}", r"{\scriptsize 3.0, -1.5}"]
    if rows > printing.LONG:
        want = [rf"r{i} & 1.5 {small[0]} {small[1]} & -- \\" for i in range(rows)]
    else:
        want = [line for i in range(rows) for line in (rf"r{i} & 1.5 & -- \\", *(rf" & {s} &  \\" for s in small))]
    assert [line for line in body.splitlines() if line.endswith(r"\\")] == want
    assert (body.count(r"\midrule"), body.count(r"\addlinespace")) == (2, 0 if rows > printing.LONG else rows - 2)


def test_tex_escapes_every_special_character():
    assert printing.tex_escape("a_b & 5% #1 $x {y}") == r"a\_b \& 5\% \#1 \$x \{y\}"
    assert printing.tex_escape("~ ^ \\") == r"\textasciitilde{} \textasciicircum{} \textbackslash{}"
    assert printing.tex_escape("`c_d` −1 > †") == r"\texttt{c\_d} $-$1 $>$ $^{\dagger}$"
    assert printing.tex_escape("|Σp| − Σg²") == r"\textbar{}$\Sigma$p\textbar{} $-$ $\Sigma$g$^2$"


@pytest.mark.parametrize(
    ("value", "shown"), [(1.0, "1.000"), (9.876, "9.876"), (12.345, "12.35"), (123.45, "123.5"), (12345.6, "12,346")]
)
def test_perplexities_have_decimals_that_suit_their_size(value, shown):
    assert printing.plain(value + 1e-9) == [shown]


def test_sparsities_are_converted_without_what_binary_fractions_add():
    assert [names.percent(names.share(sparsity)) for sparsity in range(100)] == list(range(100))
    assert names.percent(pd.Series([0.29, 0.2917])).tolist() == [29.0, 29.17]
