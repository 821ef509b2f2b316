"""Pages to read in a browser: sentences worked out by hand, and what a headless Chromium makes of a page."""

import re
from pathlib import Path

import pandas as pd
import pytest

import browser
import report
from pruning.core import artifacts
from pruning.report import site
from workspace import ROOT

TITLES = {"sums": "Sums", "text": "Solutions, perplexity"}
COLUMNS = ["method", "sparsity", "value", "ci_low", "ci_high", "reference", "delta", "p_holm", "tuning"]


def results(*rows, task="sums", metric="acc") -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=COLUMNS).assign(model="m", task=task, metric=metric, clusters=None)
    return frame.assign(calib=["c" if method != "dense" else None for method in frame["method"]])


DENSE = ("dense", 0, 0.845, 0.80, 0.88, None, None, None, None)


def test_the_best_at_each_sparsity_and_its_test_are_told():
    frame = results(
        DENSE,
        ("wanda", 0.3, 0.79, 0.75, 0.83, None, None, None, None),
        ("rku", 0.3, 0.80, 0.76, 0.84, "wanda", 0.01, 0.4, None),
        ("wanda", 0.5, 0.40, 0.35, 0.45, None, None, None, None),
        ("rku", 0.5, 0.60, 0.55, 0.65, "wanda", 0.20, 0.001, None),
    )
    assert site.sentence("results", frame, TITLES, 0.95) == (
        "`m` has an accuracy of 84.5% [80.0, 88.0] on Sums before pruning. Best of 2 methods: at 30% of the FFN "
        "neurons removed `rku`, 80.0% [76.0, 84.0], not significantly different from `wanda`; at 50% `rku`, 60.0% "
        "[55.0, 65.0], significantly better than `wanda`."
    )


def test_of_perplexities_the_lowest_is_best_and_a_lower_one_better():
    frame = results(
        ("dense", 0, 2.0, 1.9, 2.1, None, None, None, None),
        ("wanda", 0.3, 3.0, 2.9, 3.1, None, None, None, None),
        ("rku", 0.3, 2.5, 2.4, 2.6, "wanda", -0.5, 0.01, None),
        task="text",
        metric="perplexity",
    )
    words = site.sentence("results", frame, TITLES, 0.95)
    assert "a perplexity of 2.000 [1.900, 2.100] on Solutions before" in words
    assert "`rku`, 2.500 [2.400, 2.600], significantly better than `wanda`." in words


def test_a_column_that_is_compared_comes_first_and_long_grids_are_cut_short():
    tuned = [("rku", s / 100, 0.7, 0.6, 0.8, "untuned", 0.3, 0.001, "lora") for s in (10, 20, 30, 40, 50)]
    frame = results(DENSE, ("rku", 0.1, 0.4, 0.3, 0.5, None, None, None, None), *tuned)
    words = site.sentence("results", frame, TITLES, 0.95)
    assert "After pruning, recovered on `lora`: at 10% of the FFN neurons removed `rku`, 70.0% [60.0, 80.0], " in words
    assert "significantly better than the same model before recovery; at 30% `rku`" in words and "at 20%" not in words


def tradeoffs(*rows) -> pd.DataFrame:
    names = ["method", "sparsity", "tuning", "value", "ci_low", "ci_high", "bytes", "prefill_speedup", "decode_speedup"]
    frame = pd.DataFrame(rows, columns=names).assign(model="m", task="sums", metric="acc")
    for part in ("prefill", "decode"):
        frame[f"{part}_speedup_low"] = frame[f"{part}_speedup"] - 0.1
        frame[f"{part}_speedup_high"] = frame[f"{part}_speedup"] + 0.1
    return frame


DENSE_COST = ("dense", 0, None, 0.84, 0.80, 0.88, 1000, 1.0, 1.0)


def test_the_smallest_model_that_is_as_good_is_told_with_its_speed():
    frame = tradeoffs(
        DENSE_COST,
        ("wanda", 0.3, None, 0.82, 0.78, 0.86, 800, 1.2, 1.1),
        ("rku", 0.4, "lora", 0.79, 0.75, 0.83, 704, 1.4, 1.2),
        ("agf", 0.4, None, 0.78, 0.74, 0.82, 702, 1.4, 1.2),  # as small, not as good
        ("rku", 0.5, None, 0.60, 0.55, 0.65, 600, 1.6, 1.3),
    )
    assert site.sentence("tradeoff", frame, TITLES, 0.95) == (
        "The smallest `m` whose interval still meets the dense model's (84.0% [80.0, 88.0] on Sums) is `rku`, 40%, "
        "recovered: 79.0% [75.0, 83.0], 70% of its bytes; it reads a prompt 1.40 times as fast [1.30, 1.50] and writes "
        "1.20 times as fast [1.10, 1.30]."
    )
    alone = frame.assign(ci_low=float("nan"), ci_high=float("nan"))  # of one window
    assert "is `rku`, 50%" in site.sentence("tradeoff", alone, TITLES, 0.95)
    none = tradeoffs(DENSE_COST, ("rku", 0.5, None, 0.60, 0.55, 0.65, 600, 1.6, 1.3))
    assert site.sentence("tradeoff", none, TITLES, 0.95).startswith(
        "No pruned `m` has an interval that meets the dense model's"
    )


def test_collapse_goes_from_the_last_to_the_first():
    frame = pd.DataFrame({"model": "m", "method": ["a", "b", "c", "d"], "collapse": [0.45, float("nan"), 0.2, 0.3]})
    frame["censored"] = frame["collapse"].isna()
    assert site.sentence("collapse", frame, TITLES, 0.95) == (
        "Half of what `m` is above guessing is lost, from the last to the first: beyond what was measured with `b`; at "
        "45.0% with `a`; at 20.0% with `c`."
    )
    guessing = frame.assign(collapse=float("nan"), censored=False)
    assert site.sentence("collapse", guessing, TITLES, 0.95) == "`m` is not above guessing before it is pruned."


def test_html_in_a_models_text_stays_text_and_intervals_stay_whole():
    html = site.rendered("| a |\n|---|\n| <script>x</script> one<br>two |\n| 5.0 [1.0, 9.0] n.s. |\n\n* a note\n")
    assert "<script>" not in html and "one<br>two" in html
    assert '5.0 <span class="interval">[1.0, 9.0]</span> n.s.' in html
    open_ended = site.rendered("| a | b |\n|---|---|\n| foo [x | 50 [40, 60] |\n")
    assert "<td>foo [x</td>" in open_ended and '50 <span class="interval">[40, 60]</span>' in open_ended
    assert '<div class="scroll"><table>' in html and "<details><summary>Notes</summary><ul>" in html


# The page -------------------------------------------------------------------------------------------------------------

SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="518pt" height="200pt" viewBox="0 0 518 200"><circle r="9"/></svg>'


def first_page(folder: Path, title="mine: what pruning leaves") -> Path:
    """Of a wide table with long notes and a wide figure."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [DENSE, ("rku", 0.3, 0.80, 0.76, 0.84, None, None, None, None)]
    header = " | ".join(f"{n}: a long name of a column" for n in range(12))
    cells = " | ".join("80.0 [76.0, 84.0] † n.s." for _ in range(12))
    note = "* `exact_match,strict-match` " + "what_a_long_word_without_any_break_at_all_" * 5
    text = (
        f"# Table 1: reasoning\n\n## `m`\n\n| Method | {header} |\n|---{'|---' * 12}|\n| `rku` | {cells} |\n\n{note}\n"
    )
    (folder / "table1.md").write_text(text)
    (folder / "costs.md").write_text(text.replace("Table 1: reasoning", "Costs"))
    costs = pd.DataFrame({"stage": ["evaluate"], "jobs": [3], "total_s": [7200.0]})
    for name, frame in (("table1", results(*rows)), ("costs", costs)):
        artifacts.write_csv(folder / f"{name}.csv", frame, {}, beside=[folder / f"{name}.md"])
    (folder / "fig.svg").write_text(SVG)
    shown = (("table1", "results", "Accuracy."), ("costs", "costs", "Time."))
    settings = {"title": title, "titles": TITLES, "confidence": 0.95}
    settings["tables"] = [dict(zip(("name", "maker", "caption"), entry, strict=True)) for entry in shown]
    settings["figures"] = [{"name": "fig", "title": "A figure", "caption": "What it shows."}]
    files = [f"table={folder}/{{table}}", f"figure={folder}/{{figure}}"]
    files.append(f"experiments={folder.parent}/experiments.html")
    files.append(f"template={ROOT}/report/index.html.j2")
    report.report(settings, "report/pages/index", [folder / "index.html"], files)
    return folder / "index.html"


def test_the_page_opens_on_the_result_and_links_every_file(tmp_path):
    page = first_page(tmp_path / "mine").read_text()
    body = page[page.index("<body>") :]
    texts = "<h1>mine: what", "an accuracy of 84.5%", "<img", "What it shows.", "<table>"
    order = [body.index(text) for text in texts]
    assert order == sorted(order)
    assert 'href="table1.csv"' in page and 'href="fig.png"' in page and 'href="../experiments.html"' in page
    assert "3 jobs, 2.0 hours one after another" in page
    assert not re.search(r'(src|href)="(?!data:|#|table1|costs|fig|\.\./experiments)', page)  # needs no other file


def test_the_list_has_each_experiments_headline_and_link(tmp_path):
    first_page(tmp_path / "results", "default: what pruning leaves")
    first_page(tmp_path / "results/mine")
    (tmp_path / "results/other").mkdir()
    (tmp_path / "results/other/index.html").write_text("<html>somebody else's</html>")
    template, output = f"template={ROOT}/report/experiments.html.j2", tmp_path / "results/experiments.html"
    report.report({}, "report/pages/experiments", [output], [template])
    made = (tmp_path / "results/experiments.html").read_text()
    assert re.findall(r'<a href="(.*?)">(.*?)</a>', made) == [
        ("index.html", "default: what pruning leaves"),
        ("mine/index.html", "mine: what pruning leaves"),
    ]
    assert made.count("an accuracy of 84.5% [80.0, 88.0] on Sums") == 2


MEASURE = """
document.querySelectorAll("details").forEach(part => part.open = true);
const first = (document.querySelector("#headline p") || document.querySelector("h1")).getBoundingClientRect();
report({inner: window.innerWidth, scroll: document.documentElement.scrollWidth,
  top: first.top, right: first.right, height: first.height,
  boxes: [...document.querySelectorAll(".scroll")].map(box => [box.clientWidth, box.scrollWidth])});
"""


@browser.NEEDED
@pytest.mark.parametrize("width", [1280, 400])
def test_a_browser_shows_the_headline_and_scrolls_tables_alone(tmp_path, width):
    found, console = browser.measured(first_page(tmp_path / "mine"), width, MEASURE)
    assert not console
    assert found["inner"] == width and found["scroll"] <= width
    assert 0 < found["top"] < 300 and found["right"] <= width and found["height"] > 20
    assert any(inside > outside for outside, inside in found["boxes"])  # the wide table scrolls in its box
    assert all(outside <= width for outside, _ in found["boxes"])
