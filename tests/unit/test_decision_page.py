"""The page to decide by: its words and numbers by hand, and what a headless Chromium makes of it."""

import io
import math
import re
from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import pandas as pd
import pytest
from rich.console import Console
from rich.markdown import Markdown

import browser
from pruning.command import charts, comparisons, decision, page, prune, words
from pruning.command.decision import Measure, choose
from pruning.core import artifacts
from pruning.core.names import DENSE, Variant
from pruning.evaluation import samples

PERPLEXITY = Measure("perplexity", "Perplexity", "", "lower")
KL = Measure("kl", "KL divergence", "nats a token", "lower")
ANSWERS = Measure("answers", "Right answers", "share", "higher")
NOTHING = math.nan


def variant(text: str) -> Variant:
    return Variant.parse(text if text == "dense" else f"own/{text}")


def rows(*models: tuple) -> pd.DataFrame:
    """The dense model and pruned ones: name, perplexity, KL, answers, and p of the answers."""
    measured = ["perplexity", "kl", "answers"]
    dense = ("dense", 10.0, 0.0, 0.5, NOTHING)
    found = pd.DataFrame([dense, *models], columns=["variant", *measured, "answers_p"]).assign(kl_p=NOTHING)
    found["variant"] = found["variant"].map(variant)
    share = found["variant"].map(lambda own: own.sparsity / 100)
    loss = found["perplexity"] / 10 - 1
    found = found.assign(removed=share, bytes=400e6 * (1 - share), loss=loss, test_loss=loss, perplexity_p=NOTHING)
    found = found.assign(front=found["variant"] == DENSE, decode=1 + share, decode_low=0.9, decode_high=3.0)
    for end, by in {"low": 0.9, "high": 1.1}.items():
        found = found.assign(**{f"{key}_{end}": found[key] * by for key in measured})
    return found.assign(**{f"prefill{end}": 1 + share for end in ("", "_low", "_high")})


def content(*models: tuple, tolerance: float = 0.1, measures=(PERPLEXITY, KL, ANSWERS), **more) -> words.Content:
    found = rows(*models)
    choice = choose(found, tolerance, equal_cost="budgets" in more)
    own = {"parts": {"train": 300, "validation": 100, "test": 100}, **more}
    return words.Content("org/Model", found, measures, choice, tolerance, "out/x", 1000, **own)


TWO = [("wanda/20", 12.0, 0.3, 0.3, 0.01), ("agf/30", 10.5, 0.04, 0.45, 0.2)]


# words and numbers


@pytest.mark.parametrize(
    ("pruned", "warned"), [((0.5, 0.4, 0.6), True), ((0.5, 0.25, 0.7), False), ((0.1, 0.0, 0.2), False)]
)
def test_it_is_said_where_answers_no_longer_end(pruned, warned):
    """The intervals are apart, or not: value, low and high."""
    own = content(*TWO, measures=(PERPLEXITY, KL, ANSWERS, Measure("cut_off", "cut off", "share", "lower")))
    for key, dense, taken in zip(("", "_low", "_high"), (0.2, 0.1, 0.3), pruned, strict=True):
        own.models[f"cut_off{key}"] = [dense, taken, taken]
    said = "Mind: 50.0% of its answers reach the limit or run into a loop, of the dense model's 20.0%."
    assert (words.verdict(own)[-1] == said) == warned and len(words.verdict(own)) == 3 + warned
    said = "Mind: 20.0% of the dense model's answers are cut off, so right answers measure brevity as well."
    assert words.verdict(own)[2] == said
    own.models["cut_off"] = [0.05, 0.05, 0.05]
    assert "brevity" not in "".join(words.verdict(own))


@pytest.mark.parametrize(("share", "p", "warned"), [(0.45, 0.0312, True), (0.45, 0.2, False), (0.55, 0.0312, False)])
def test_it_is_said_where_right_answers_are_lost_for_certain(share, p, warned):
    said = "Mind: right answers are lost, and not by chance (p = 0.03, after Holm), which perplexity does not show. "
    said += "Where they matter, take a model that is pruned less."
    assert (said in words.verdict(content(TWO[0], ("agf/30", 10.5, 0.04, share, p)))) == warned


def test_numbers_have_digits_that_say_something():
    amounts = {31234.5: "31,234", 123.45: "123.5", 9.876: "9.88", 0.12345: "0.123", 0.0: "0"}
    amounts |= {NOTHING: "–", math.inf: "∞"}
    assert [words.value(PERPLEXITY, amount) for amount in amounts] == list(amounts.values())
    assert words.value(ANSWERS, 0.123456) == "12.3%"
    assert [words.size(3.5e8, 5e8), words.size(3.5e8, 5e9)] == ["350.0 MB", "0.35 GB"]
    assert [words.above(-0.012), words.above(0.2), words.above(1234.5)] == ["-1.2%", "+20.0%", "1,236 times as high"]
    assert [words.minutes(seconds) for seconds in (42, 90, 5400)] == ["42 s", "1.5 min", "1.5 h"]


def test_the_verdict_says_which_model_why_and_what_it_costs_and_gains():
    found = content(*TWO)
    assert words.headline(found) == "Take agf at 30%"
    assert words.verdict(found) == [
        "It is the smallest model whose perplexity on the validation data is at most 10% above the dense model's "
        "(+5.0%).",
        "With 30% of the FFN neurons removed it is 30% smaller (280.0 MB in place of 400.0 MB), reads a prompt 1.30 "
        "times as fast and writes about as fast. On the test data it has perplexity 10.50 against 10.00 and right "
        "answers 45.0% against 50.0%.",
    ]
    assert "answers" not in words.verdict(replace(found, measures=[PERPLEXITY]))[1]
    for share, said in {0.3: 30, 0.304: 30, 0.333: 33}.items():  # two of six experts are the nearest to 30%
        own = replace(found, models=found.models.assign(removed=share), units="experts")
        assert words.verdict(own)[1].startswith(f"With {said}% of the experts removed it is 30% smaller")
    shown = page.tiles(found)
    assert shown[0] == ("Perplexity", "10.50", "10.00", "+5.0%")
    assert shown[3] == ("Weights", "280.0 MB", "400.0 MB", "-30%")


def test_where_no_model_is_good_enough_it_says_not_to_prune():
    found = content(*TWO, tolerance=0.01)
    assert words.headline(found) == "Do not prune"
    assert words.verdict(found)[0] == (
        "Every pruned model's perplexity on the validation data is more than 1% above the dense model's. The nearest "
        "is agf, 30% (+5.0%)."
    )
    assert "The nearest model lies in <code>out/x</code>" in page.html(replace(found, measures=[PERPLEXITY]))


MS = {"kind": "prefill_ms", "asked": "70%", "target": 84.0, "dense": 120.0}
BUDGETS = {
    "wanda": {**MS, "sparsity": 20, "cost": {"value": 83.0, "low": 82.5, "high": 83.9}},
    "agf": {**MS, "sparsity": 30, "cost": {"value": 81.0, "low": 80.2, "high": 82.0}},
}


def test_at_equal_cost_it_says_what_each_method_came_to():
    said = page.markdown(content(*TWO, budgets=BUDGETS))
    assert "The budget is 84 ms of prefill (prefill_ms=70%; the dense model: 120 ms of prefill). Each method" in said
    assert "* wanda: 20%, 83 ms of prefill [82.5, 83.9], 69% of dense\n* agf: 30%, 81 ms of prefill [80.2, 82]" in said
    assert "Of the models that meet the budget it is the best, and its perplexity on the validation data is" in said
    assert "interval is within the budget." in said
    found = content(*TWO, budgets=BUDGETS, tolerance=0.01)
    assert words.headline(found) == "Do not prune to this budget"
    assert words.verdict(found)[0].endswith("more than 1% above the dense model's. The best is agf, 30% (+5.0%).")
    cost = dict.fromkeys(("value", "low", "high"), 8.9e6)
    counted = {"kind": "bytes", "asked": "9MB", "target": 9e6, "dense": 12e6, "sparsity": 20, "cost": cost}
    said = page.markdown(content(*TWO, budgets={"wanda": counted}))
    assert "* wanda: 20%, 8.90 MB of weights, 74% of dense\n" in said
    assert "in turn with the dense model; their" not in said


def test_the_text_page_has_a_row_per_model_and_marks_what_is_not_significant():
    said = page.markdown(content(*TWO, notes=["few tokens"]))
    head = "| Model | Perplexity | KL divergence | Right answers | Validation | Weights | Prefill | Decoding | Front |"
    assert said.startswith("# Take agf at 30%\n") and head in said and "It lies in `out/x`." in said
    assert "| dense | 10.00 | 0 | 50.0% | – | 400.0 MB | 1.00× | 1.00× | ✓ |" in said
    assert "| **agf, 30%** | 10.50 | 0.040 | 45.0% n.s. | +5.0% | 280.0 MB | 1.30× | 1.30× |  |" in said
    assert "| wanda, 20% | 12.00 | 0.300 | 30.0% | +20.0% |" in said
    printed = io.StringIO()
    Console(file=printed, width=100).print(Markdown(said))
    assert "…" not in printed.getvalue()
    assert "\n* n.s.: " in said and "\n* few tokens\n" in said
    assert "n.s." not in page.markdown(content(*TWO, measures=[PERPLEXITY]))


def test_a_dense_model_that_guesses_is_said_before_all_else():
    found = replace(content(*TWO, measures=[PERPLEXITY]), vocabulary=9)
    said = "The dense model does not know this text: its perplexity is 10, that of guessing among its 9 words 9."
    assert page.markdown(found).startswith(f"# No verdict: the dense model does not know this text\n\n**{said}")
    assert page.html(found).index(said) < page.html(found).index("It is the smallest model")
    assert "does not know" not in page.markdown(content(*TWO))


def test_the_front_is_what_no_other_point_beats():
    places = [(1, 5), (2, 3), (3, 3), (2, 3), (4, 1), (4, 2), (0, 9)]
    alone = [not any(a <= x and b <= y and (a < x or b < y) for a, b in places) for x, y in places]
    assert charts.front(places) == alone == [True, True, False, True, True, False, True]


def test_points_have_places_words_and_who_is_on_the_front():
    found = content(*TWO, ("rku/30/own", 11.0, NOTHING, 0.45, 0.2))
    drawn = {each["name"]: each for each in charts.points(found, ANSWERS, "bytes")}
    assert [(each["x"], each["y"]) for each in drawn.values()] == [(400, 50), (320, 30), (280, 45), (280, 45)]
    assert [each["kind"] for each in drawn.values()] == ["dense", "behind", "best", "best"]
    assert drawn["agf, 30%"]["quality"] == "45.0% [40.5%, 49.5%] n.s." and drawn["agf, 30%"]["cost"] == "280.0 MB (70%)"
    assert [each["taken"] for each in drawn.values()] == [False, False, True, False]
    assert [each["x_low"] for each in drawn.values()] == [None] * 4  # bytes are counted, not measured
    assert [each["name"] for each in charts.points(found, KL, "decode")] == ["dense", "wanda, 20%", "agf, 30%"]


def test_charts_are_valid_and_an_axis_over_orders_of_magnitude_is_logarithmic():
    found = content(*TWO, ("random/50", 31000.0, 8.0, 0.0, 0.0), widths={DENSE: [10, 10], variant("agf/30"): [5, 9]})
    for measure, cost in product(found.measures, words.HEADS):
        charts.panel(found, measure, cost)[0].to_dict()  # checked by Altair
    charts.widths_map(found)[0].to_dict()
    chart, drawn = charts.panel(found, KL, "bytes")
    assert [each["name"] for each in drawn] == ["wanda, 20%", "agf, 30%", "random, 50%"]  # no logarithm of 0
    drawn = [charts.panel(found, each, "bytes")[0].to_dict()["layer"][0]["encoding"] for each in found.measures]
    assert [encoding["y"]["scale"].get("type") for encoding in drawn] == ["log", "log", None]


# what a run left


def frame(*outcomes: tuple[str, int]) -> pd.DataFrame:
    made = [
        {"item": n, "item_hash": f"h{n % 3}", "metric": "exact_match", "value": right, "weight": 1}
        | {"target": str(n), "prompt": f"q{n}", "response": text}
        for n, (text, right) in enumerate(outcomes)
    ]
    return samples.frame(made)


def test_examples_are_the_first_of_each_kind_filled_up_with_the_first_of_all(tmp_path):
    taken = variant("agf/30")
    right = {"dense": (1, 1, 0, 0, 1, 1, 0), str(taken): (1, 1, 0, 0, 0, 1, 1)}
    for who, values in right.items():
        path = tmp_path / Variant.parse(who).samples("m", "sums")
        path.parent.mkdir(parents=True)
        artifacts.write_parquet(path, frame(*((f"{who} {n}", value) for n, value in enumerate(values))), "samples", {})
        silent = frame(*(("", value) for value in values)).assign(response=None)
        artifacts.write_parquet(path.with_name("own.samples.parquet"), silent, "samples", {})
    asked = {"q1": "what was asked", "q5": "unused"}
    found = decision.answers(tmp_path, "m", taken, ["own", "absent", "sums"], asked)
    assert list(decision.outcomes(found).values()) == [3, 1, 1, 2]
    shown = decision.examples(found)
    assert [example["question"] for example in shown] == ["q0", "what was asked", "q2", "q4", "q6"]
    wanted = ["q4", "4", "dense 4", True, "own/agf/30 4", False, "only the dense model right"]
    assert list(shown[3].values()) == wanted
    assert decision.examples(decision.answers(tmp_path, "m", taken, ["own"], asked)) == []


def test_widths_are_read_once_of_a_model_and_its_recovery(tmp_path):
    for each, kind in (("dense", "base"), ("agf/30", "compact")):
        path = tmp_path / variant(each).manifest("m")
        path.parent.mkdir(parents=True)
        artifacts.write_json(path, {"widths": [len(each)] * 2}, kind, {})
    found = decision.widths(tmp_path, "m", [variant("agf/30"), variant("agf/30/own"), variant("wanda/20")])
    assert found == {DENSE: [5, 5], variant("agf/30"): [6, 6]}


# in a browser

LONG = "a_method_whose_name_" + "is_long_" * 9
EVIL = '</script><script>document.body.dataset.evil = "yes"</script>\n'
EVIL += '<img src=x onerror="document.body.dataset.evil=1">'


def test_the_page_for_a_terminal_names_what_the_other_has():
    example = dict.fromkeys(("question", "expected", "dense", "pruned"), "x") | {"dense_right": 1, "pruned_right": 0}
    said = "* Intervals, plots and example answers: decision.html."
    assert said in page.markdown(content(*TWO, examples=[example]))
    assert "* Intervals and plots: decision.html." in page.markdown(content(*TWO))


def many() -> words.Content:
    """30 models, long names, perplexities of 10^4 and infinity, and markup in every text of users and models."""
    names = [f"{method}/{sparsity}" for method in ("wanda", "rku", LONG, *"abcdefg") for sparsity in (20, 40, 60)]
    models = [(name, 10 * (1 + n) ** 2.5, 0.1 * n, 0.5 / (1 + n), 0.5) for n, name in enumerate(names)]
    models[-1] = (names[-1], math.inf, NOTHING, NOTHING, NOTHING)
    widths = {DENSE: [100] * 60, **{variant(name): [100 - n, *[50] * 59] for n, name in enumerate(names)}}
    example = dict.fromkeys(("question", "expected", "pruned"), EVIL) | {"dense": EVIL + "x" * 900}
    texts = {"examples": [example | {"dense_right": True, "pruned_right": False}] * 5, "notes": [EVIL]}
    texts |= {"outcomes": dict(zip(decision.OUTCOMES, (1, 2, 3, 4), strict=True)), "command": f"prune '{EVIL}'"}
    stages = pd.DataFrame({"stage": ["evaluate"], "jobs": [3], "total_s": [90.0], "share": [1.0]})
    found = content(*models, widths=widths, stages=stages, versions={"torch": "2"}, **texts)
    return replace(found, model=EVIL)


SETTLED = "const settled = () => new Promise(done => setTimeout(done, 300));"
MEASURE = f"""{SETTLED}
const texts = () => [...document.querySelectorAll("[data-cost] svg")].map(each => each.textContent);
drawing.then(settled).then(async () => {{
  const found = {{before: texts(), evil: document.body.dataset.evil ?? "no"}};
  const point = document.querySelector("[data-cost] .mark-symbol path[aria-label*=wanda]");
  const box = point.getBoundingClientRect();
  const where = {{clientX: box.x + box.width / 2, clientY: box.y + box.height / 2, bubbles: true}};
  ["mouseover", "pointermove", "mousemove"].forEach(kind => point.dispatchEvent(new PointerEvent(kind, where)));
  await settled();
  found.hover = document.getElementById("vg-tooltip-element")?.textContent ?? "";
  document.querySelector("input[value=answers]")?.click();
  await settled();
  Object.assign(found, {{after: texts(), inner: innerWidth, scroll: document.documentElement.scrollWidth,
    charts: [...document.querySelectorAll(".chart svg")].map(each => each.getBoundingClientRect().right),
    paper: color("paper"), ink: document.querySelector("[data-cost] .role-title-text text").getAttribute("fill")}});
  report(found);
}});"""


@browser.NEEDED
@pytest.mark.parametrize(
    ("width", "scheme", "paper", "ink"), [(1280, 1, "#fff", "#222"), (400, 0, "#15181c", "#e6e6e6")]
)
def test_a_browser_draws_all_charts_without_a_word_and_scrolls_nothing_sideways(tmp_path, width, scheme, paper, ink):
    (tmp_path / "decision.html").write_text(page.html(many()))
    option = f"--blink-settings=preferredColorScheme={scheme}"  # 0: dark
    found, console = browser.measured(tmp_path / "decision.html", width, MEASURE, option)
    assert console == []
    assert found["inner"] == width and found["scroll"] <= width and found["evil"] == "no"
    assert len(found["charts"]) == 4 and all(0 < right <= width for right in found["charts"])
    assert all("Perplexity ↓" in text for text in found["before"])
    assert all("Right answers ↑" in text for text in found["after"])
    assert "wanda, 20%" in found["hover"] and "10.00 [9.00, 11.00]" in found["hover"]
    assert (found["paper"], found["ink"]) == (paper, ink)


def test_the_page_needs_no_other_file_and_no_network():
    made = page.html(content(TWO[0], measures=[PERPLEXITY]))
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!#)""", made.replace(charts.library(), ""))
    assert "default-src 'none'" in made and len(made) < 2e6


# the dense model in fewer bits


def files(of: str, task: str, *rows: tuple) -> pd.DataFrame:
    """Rows of `…-bytes.csv`: method, sparsity, type, megabytes, value, best dense file that is not larger."""
    found = [
        {"column": task, "calib": "own", "method": method, "sparsity": sparsity / 100, "tuning": None, "type": kind}
        | {"label": f"{of if sparsity else 'dense'}, {(kind or 'unquantised').upper()}", "bytes": size * 1e6}
        | {"value": value, "ci_low": value * 0.9, "ci_high": value * 1.1}
        | {"alternative": best, "alternative_p_holm": 0.04}
        for method, sparsity, kind, size, value, best in rows
    ]
    return pd.DataFrame(found)


def test_methods_are_held_against_the_first_one_at_equal_sparsity():
    """The dense model and the first method's own rows have no test; nor has what is no text and no answers."""
    first, none = "wanda", None
    rows = [
        ("dense", 0, "own", "perplexity", 10.0, none, NOTHING),
        ("wanda", 0.2, "own", "perplexity", 12.0, none, NOTHING),
        ("wanda", 0.4, "own", "perplexity", 14.0, none, NOTHING),
        ("agf", 0.2, "own", "perplexity", 11.0, first, 0.0002),
        ("agf", 0.4, "own", "perplexity", 13.9, first, 0.05),
        ("wanda", 0.2, "own_answers", "judged", 0.4, none, NOTHING),
        ("agf", 0.2, "own_answers", "judged", 0.45, first, 0.0312),
        ("wanda", 0.2, "own", "kl", 0.2, none, NOTHING),
        ("agf", 0.2, "own", "kl", 0.1, first, 0.001),
    ]
    table = pd.DataFrame(rows, columns=["method", "sparsity", "task", "metric", "value", "reference", "p_holm"])
    measured = [PERPLEXITY._replace(task="own", metric="perplexity"), KL._replace(task="own", metric="kl")]
    measured.append(ANSWERS._replace(task="own_answers", metric="judged"))
    table = table.assign(calib="own", tuning=none)
    assert comparisons.between(table, measured) == [
        "Methods are compared at equal sparsity, by paired tests on the test data, after Holm:",
        "agf, 20%, against wanda: perplexity 11.00 and 12.00 (p < 0.001), right answers 45.0% and 40.0% (p = 0.031).",
        "agf, 40%, against wanda: perplexity 13.90 and 14.00 (n.s.).",
    ]
    assert comparisons.between(table[table["method"] != "agf"], measured) == []
    assert comparisons.between(table.replace({"reference": {"wanda": "dense"}}), measured) == []  # an edited one


DENSE_FILES = [("dense", 0, *each, None) for each in ((None, 270, 10.0), ("q8_0", 144, 10.1), ("q4_0", 80, 13.0))]


@pytest.mark.parametrize(
    ("pruned", "p", "wins", "said"),
    [
        (
            [(None, 200, 10.5, "dense, Q8_0"), ("q8_0", 110, 10.6, "dense, Q4_0")],
            *(0.04, True),
            "agf, 30% is better than the best dense file that is not larger as Q8_0; "
            "worse as unquantised (than dense, Q8_0).",
        ),
        (
            [("q8_0", 150, 10.5, "dense, Q8_0"), ("q4_0", 81, 14.0, "dense, Q4_0")],
            *(0.04, False),
            "agf, 30% is worse as Q8_0 (than dense, Q8_0), Q4_0 (than dense, Q4_0).",
        ),
        (
            [("q8_0", 150, 10.5, "dense, Q8_0"), ("q4_0", 60, 14.0, None)],
            *(0.06, True),
            "agf, 30% is smaller than every dense file as Q4_0; "
            "not significantly different from the best dense file that is not larger as Q8_0.",
        ),
    ],
)
def test_the_model_to_take_is_held_against_the_dense_one_in_fewer_bits(pruned, p, wins, said):
    pruned = [("agf", 30, *each) for each in pruned]
    others = [("wanda", 20, "q8_0", 120, 9.0, "dense, Q4_0")]  # not the model to take
    chosen = files("`agf`, 30%", "own_validation", *DENSE_FILES, *pruned, *others).assign(alternative_p_holm=p)
    test = files("`agf`, 30%", "answers", *DENSE_FILES, *pruned).assign(value=0.25, ci_low=0.2, ci_high=0.3)
    by = "perplexity on the validation data"
    found = comparisons.against(chosen, test, variant("agf/30"), PERPLEXITY, ANSWERS, by)
    assert (found.wins, found.said) == (wins, f"{said} {comparisons.OTHER_TEXT}")
    assert len(found.lines) == len(test) and found.lines[3][:3] == [
        f"agf, 30%, {(pruned[0][2] or 'unquantised').upper()}",
        f"{pruned[0][3]:.1f}",
        "25.0% [20.0%, 30.0%]",
    ]
    shown = content(*TWO, against={comparisons.SMALLER_MODEL: found})
    assert words.headline(shown) == ("Take agf at 30%" if wins else "Do not prune: take a smaller model")
    assert all(f"By {by}: {said}" in made for made in (page.markdown(shown), page.html(shown)))


@pytest.mark.parametrize("named", ["own_validation", "my_text"])
@pytest.mark.parametrize(("rare", "shown"), [(False, "Right answers"), (True, "Perplexity")])
def test_files_are_shown_by_answers_where_these_tell_models_apart(rare, shown, named):
    """By the validation text of an edited configuration as well, whatever it is called."""
    chosen = files("`agf`, 30%", named, *DENSE_FILES, ("agf", 30, None, 150, 10.5, "dense, Q8_0"))
    text, asked = (files("", task, *DENSE_FILES) for task in ("own", "own_answers"))
    read = dict(zip(prune.AGAINST, (chosen, pd.concat([text, asked])), strict=True))
    measured = [PERPLEXITY._replace(task="own"), ANSWERS._replace(task="own_answers")]
    table = SimpleNamespace(columns=[SimpleNamespace(task=named)])
    mine = SimpleNamespace(config=SimpleNamespace(table=lambda name: table)) if named == "my_text" else None
    known = SimpleNamespace(answers=True, rare=rare, mine=mine)
    found = prune.compared(known, read, variant("agf/30"), measured)[comparisons.FEWER_BITS]
    assert found.heads[2] == shown and len(found.lines) == len(DENSE_FILES) and " is ." not in found.said


@pytest.mark.parametrize(("column", "shown"), [("own", "Perplexity"), ("another", None)])
def test_a_table_that_lacks_the_best_measure_is_judged_by_one_that_it_has(column, shown):
    """As one of an edited configuration."""
    read = {prune.SMALLER: files("`agf`, 30%", column, *DENSE_FILES, ("agf", 30, None, 150, 10.5, "dense, Q8_0"))}
    measured = [PERPLEXITY._replace(task="own"), ANSWERS._replace(task="own_answers")]
    found = prune.compared(SimpleNamespace(answers=True, rare=False), read, variant("agf/30"), measured)
    assert [each.heads[2] for each in found.values()] == ([shown] if shown else [])


@pytest.mark.parametrize(("right", "wins", "said"), [(0.2, False, "worse as"), (0.4, True, "better than the best")])
def test_of_answers_more_are_better(right, wins, said):
    rows = files("`agf`, 30%", "answers", *DENSE_FILES[:1], ("agf", 30, "q8_0", 150, right, "small, Q8_0"))
    other = rows[:1].assign(label="small, Q8_0", type="q8_0", value=0.3)
    both = pd.concat([rows, other], ignore_index=True)
    found = comparisons.against(both, both, variant("agf/30"), ANSWERS, ANSWERS, "")
    assert found.wins == wins and said in found.said
