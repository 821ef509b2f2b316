"""Compares resources/paper/ with the text of the paper: every cell both ways, and every number of the notes.

    python tests/verify_paper.py rku-paper.txt

The tables are read from the text anew, by their headers. What the notes say is worked out from the published values,
and a note may hold no other number. Prints counts and the sha256 of each file, which tests/unit/test_published.py
keeps; exits with 1 if anything differs.
"""

import argparse
import csv
import hashlib
import itertools
import re
import sys
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import yaml
from statsmodels.stats.proportion import proportions_ztest

PAPER = Path(__file__).resolve().parents[1] / "resources/paper"
QWEN, LLAMA = "qwen2_5-7b", "llama-3-8b"
MODELS = {1: QWEN, 2: LLAMA, 3: QWEN, 4: QWEN, 6: QWEN, 7: LLAMA}
COLUMNS = ["model", "method", "presets", "sparsity", "task", "tuning", "metric", "value"]
OVERLAP = ["model", "first", "second", "first_presets", "second_presets", "layer", "sparsity", "value"]
PRESETS = {
    "Baseline (Dense)": "dense",
    "Wanda-Struct": "wanda",
    "FLAP": "flap",
    "Taylor-FO": "taylor_fo",
    "CFSP": "cfsp;cfsp_as_code",
    "AGF": "agf",
    "RKU": "rku",
}
METRICS = {"gsm8k": "exact_match,strict-match", "wikitext2": "perplexity", "c4": "perplexity"}
ITEMS = {"gsm8k": 1319, "aqua": 254, "mathqa": 2985, "piqa": 1838}
ITEMS |= {"arc_easy": 2376, "arc_challenge": 1172, "winogrande": 1267}
# Which model a table is of, and what the notes quote.
QUOTES = [
    "we perform zero-shot and few-shot evaluations on Qwen-2.5-7B across two highly complex reasoning benchmarks",
    "Table 2 evaluating LLaMA-3-8B",
    "a minimal 150-step LoRA fine-tuning on the Qwen-2.5-7B model",
    "sparsity spectrum (10% to 90%) for Qwen-2.5-7B. As demonstrated in Table 4",
    "C.1 Full Perplexity Results for Qwen-2.5-7B\nTable 6",
    "Table 7 presents the full multi-sparsity zero-shot reasoning and perplexity evaluations for LLaMA-3-8B, "
    "confirming that the kinetic utility principles of RKU generalize robustly",
    "leads to severe degradation on AQuA, including cases with near-zero performance",
    "retains a residual 18.04% accuracy on GSM8K at 40% sparsity, its performance on the highly complex AQuA benchmark "
    "plummets to a stark 0.00%",
    "(Wanda) often retain slightly higher accuracy (2%-4%) on shallow static retrieval tasks like WinoGrande and PIQA",
    "juxtapose these fine-tuning dynamics with the model’s fundamental zero-shot algebraic reasoning (AQuA)",
    "GSM8K (exact match mathematical reasoning)",
    "a drastic decoupling occurs beyond the 40% collapse point",
    "Table 5 presents two qualitative examples",
    "(e.g., Wanda) maintain slightly lower PPL",
]
# What the notes say the paper does not state.
UNSAID = ["calibrat", "seqlen", "sequence length", "window", "acc_norm", "normalized acc", "lora rank", "rank of"]
UNSAID += ["learning rate", "batch size", "target module", "split", "strict match", "averag"]


# The paper's tables ---------------------------------------------------------------------------------------------------


def markdown_tables(text: str) -> list[list[list[str]]]:
    """Cells of every run of at least three lines that begin with `|`, the ruling line left out."""
    runs = [list(run) for bar, run in itertools.groupby(text.splitlines(), lambda line: line.startswith("|")) if bar]
    return [
        [[cell.strip() for cell in line.strip()[1:].removesuffix("|").split("|")] for line in run[:1] + run[2:]]
        for run in runs
        if len(run) >= 3
    ]


def fraction(percent: str) -> str:
    return str(Decimal(percent.rstrip("%")).scaleb(-2))


def sparsity(percent: str) -> str:
    return f"{float(percent.rstrip('%')) / 100:g}"


def method(name: str) -> str:
    return name if name in PRESETS else re.fullmatch(r"(.+) \((?:Ours|Baseline|2024)\)", name)[1]


def cell(name: str, percent: str, task: str, tuning: str, value: str) -> tuple[str, ...]:
    value = value if METRICS.get(task) == "perplexity" else fraction(value)
    return (method(name), sparsity(percent), task, tuning, value)


def grouped(table: list[list[str]], columns: list[tuple[str, str, str]]) -> Iterator[tuple[str, ...]]:
    """Cells under two header lines: sparsities whose cells are merged over `columns` (header, task, tuning) each.

    The second line lacks the cell of the first column, which is merged down.
    """
    percents = [re.fullmatch(r"(\d+%) Sparsity", name)[1] for name in table[0][1:] if name]
    assert table[0][0] == "Method" and [n for n in table[1] if n] == [name for name, *_ in columns] * len(percents)
    for name, *values in table[2:]:
        for (percent, (_, task, tuning)), value in zip(itertools.product(percents, columns), values, strict=True):
            yield cell(name, percent, task, tuning, value)


def table2(table: list[list[str]]) -> Iterator[tuple[str, ...]]:
    for name, *values in table[1:]:
        for header, pair in zip(table[0][1:], values, strict=True):
            task, *percents = re.fullmatch(r"(\S+) \((\d+%) / (\d+%)\)", header).groups()
            for percent, value in zip(percents, pair.split(" / "), strict=True):
                yield cell(name, percent, task.lower().replace("-", "_"), "", value)


def table4(table: list[list[str]]) -> Iterator[tuple[str, ...]]:
    names = {"RKU": "RKU", "Taylor": "Taylor-FO", "Wanda": "Wanda-Struct"}
    for label, *values in table[1:]:
        layer, *pair = re.fullmatch(r"(?:Avg IoU|Layer (\d+)) \((\w+) vs\. (\w+)\)", label).groups()
        for percent, value in zip(table[0][1:], values, strict=True):
            yield (*(names[name] for name in pair), layer or "", sparsity(percent), fraction(value))


def side_by_side(table: list[list[str]]) -> Iterator[tuple[str, ...]]:
    """Tables 6 and 7: a row a method and sparsity. Table 6 prints two such rows in a line."""
    width = len(table[0]) if table[0].count("Method") == 1 else len(table[0]) // 2
    assert table[0] == table[0][:width] * (len(table[0]) // width) and table[0][:2] == ["Method", "Sparsity"]
    tasks = [header.removesuffix(" ()").lower() for header in table[0][2:width]]
    for line in table[1:]:
        for start in range(0, len(line), width):
            name, percent, *values = line[start : start + width]
            for task, value in zip(tasks, values, strict=True):
                if value not in ("", "-"):
                    yield cell(name, percent, task, "", value)


def published(text: str) -> dict[int, list[tuple[str, ...]]]:
    """Rows of each table as the CSV should have them."""
    first, second, third, fourth, sixth, seventh = markdown_tables(text)
    tuned = [("GSM8K(ID)", "gsm8k", "gsm8k-150"), ("MathQA(OOD)", "mathqa", "gsm8k-150")]
    tuned += [("AQuA", "aqua", ""), ("MathQA(OOD)", "mathqa", "aqua-150")]
    cells = {
        1: grouped(first, [("GSM8K", "gsm8k", ""), ("AQuA", "aqua", "")]),
        2: table2(second),
        3: grouped(third, tuned),
        6: side_by_side(sixth),
        7: side_by_side(seventh),
    }
    rows = {
        n: [(MODELS[n], m, PRESETS[m], s, task, tuning, METRICS.get(task, "acc"), v) for m, s, task, tuning, v in found]
        for n, found in cells.items()
    }
    rows[4] = [(MODELS[4], a, b, PRESETS[a], PRESETS[b], *rest) for a, b, *rest in table4(fourth)]
    return dict(sorted(rows.items()))


def compare(n: int, rows: list[tuple[str, ...]]) -> list[str]:
    """What differs between a table of the paper and its CSV, one line a row."""
    with open(PAPER / f"table{n}.csv", newline="") as file:
        header, *lines = csv.reader(file)
    if header != (OVERLAP if n == 4 else COLUMNS):
        return [f"table{n}.csv: columns {header}"]
    paper, ours = Counter(rows), Counter(map(tuple, lines))
    print(f"Table {n}: {len(rows)} cells in the paper, {len(lines)} rows in the CSV, {(paper & ours).total()} agree")
    missing = [f"table{n}.csv: lacks {row}" for row in (paper - ours).elements()]
    return missing + [f"table{n}.csv: not in the paper: {row}" for row in (ours - paper).elements()]


# The notes ------------------------------------------------------------------------------------------------------------


def is_count(value: str, n: int) -> bool:
    """Whether a fraction is k/n for a whole k, rounded to the decimals that it has."""
    return value in {f"{k / n:.{len(value) - 2}f}" for k in range(n + 1)}


def z(a: str, b: str, n: int) -> float:
    """Unpaired test of two accuracies of n items each."""
    return proportions_ztest([round(float(a) * n), round(float(b) * n)], [n, n])[0]


def claims(rows: dict[int, list[tuple[str, ...]]]) -> Iterator[tuple[int, str, bool]]:
    """(table, words that its notes must hold, whether they are true), with the numbers worked out from the tables."""
    tables = {n: {(r[1], r[3], r[4], r[5]): r[7] for r in rows[n]} for n in (1, 2, 3, 6, 7)}
    one, two, three, six, seven = tables.values()

    def percent(table, name, at, task, tuning=""):
        return f"{100 * float(table[name, at, task, tuning]):.2f}"

    def values(table, name, task, tuning=""):  # by sparsity
        return {s: v for (m, s, t, u), v in table.items() if (m, t, u) == (name, task, tuning)}

    def gap(a, b):
        return f"{100 * (Decimal(a) - Decimal(b)):.2f}"

    def counts(table):
        return {key: is_count(value, ITEMS[key[2]]) for key, value in table.items() if key[2] in ITEMS}

    # Table 1
    yield 1, "n = 1,319 (GSM8K) and n = 254 (AQuA)", (ITEMS["gsm8k"], ITEMS["aqua"]) == (1319, 254)
    z30, z40 = (z(one["RKU", s, "gsm8k", ""], one["AGF", s, "gsm8k", ""], 1319) for s in ("0.3", "0.4"))
    yield 1, f"significant at 30% (z about {z30:.2f})", z30 > 1.96
    rku, agf = (percent(one, m, "0.4", "gsm8k") for m in ("RKU", "AGF"))
    yield 1, f"not at 40% ({rku} against {agf}, z = {z40:.1f})", abs(z40) < 1.96
    aqua = {key: value for key, value in one.items() if key[2] == "aqua"}
    pairs = itertools.combinations(set(aqua.values()), 2)
    yield 1, "no AQuA difference in the table is significant", max(abs(z(a, b, 254)) for a, b in pairs) < 1.96
    yield 1, "AGF at 40% as 18.04 (GSM8K) and 0.00 (AQuA)", True  # a quote
    yield 1, f"Table 1 says {agf} and {percent(one, 'AGF', '0.4', 'aqua')}", True
    differ = sum(value != three[key] for key, value in aqua.items())
    yield 1, f"other values in {differ} of {len(aqua)} cells", True
    behind = [Decimal(one["RKU", s, "aqua", ""]) - Decimal(v) for s, v in values(one, "AGF", "aqua").items()]
    yield 1, "within 1 point of RKU's or above them", max(behind) < Decimal("0.01")
    whole = counts(one)
    yield 1, f"{sum(whole.values())} of the {len(whole)} published values are whole numbers", True
    odd, share = [key for key, is_whole in whole.items() if not is_whole], f"{36400 / 1319:.3f}"
    cut = odd == [("AGF", "0.3", "gsm8k", "")] and one[odd[0]] == "0.2759" and share[:5] == "27.59"
    yield 1, f"AGF's 27.59 on GSM8K at 30% is 364 of 1,319 ({share})", cut
    yield 1, "has no row for the dense model", not any(key[0] == "Baseline (Dense)" for key in one)

    # Tables 2 and 7
    for n, tasks in (2, ["arc_challenge", "winogrande", "piqa"]), (7, ["piqa", "arc_easy", "winogrande"]):
        titles = {"arc_challenge": "ARC-Challenge", "arc_easy": "ARC-Easy", "piqa": "PIQA", "winogrande": "WinoGrande"}
        whole = counts(tables[n])
        words = ", ".join(f"{ITEMS[task]:,} of {titles[task]}" for task in tasks)
        yield n, words, all(whole.values()) and {key[2] for key in whole} == set(tasks)
    yield 2, "no row for the dense model and none for AGF", not {"Baseline (Dense)", "AGF"} & {key[0] for key in two}
    for denser, sparser in (("0.4", "0.5"), ("0.6", "0.7")):
        ours, theirs = (
            [percent(t, "FLAP", s, task) for task in ("winogrande", "piqa")]
            for t, s in ((two, denser), (seven, sparser))
        )
        words = f"{' and '.join(ours)} at {float(denser):.0%}, below Table 7's {' and '.join(theirs)} at"
        yield 2, f"{words} {float(sparser):.0%}", all(float(a) < float(b) for a, b in zip(ours, theirs, strict=True))
    yield 7, "at 50% and 70% are above Table 2's at 40% and 60%", True  # the same
    yield 2, "2%-4% more on WinoGrande and PIQA", True  # a quote
    lead = {t: [gap(v, two["RKU", s, t, ""]) for s, v in values(two, "Wanda-Struct", t).items()] for t in titles}
    yield 2, f"{' and '.join(lead['winogrande'])} (WinoGrande) and {' and '.join(lead['piqa'])} points (PIQA)", True

    # Table 3
    after = {m: values(three, m, "mathqa", "gsm8k-150") for m in ("Taylor-FO", "Wanda-Struct", "RKU", "AGF")}
    agfs = after.pop("AGF").values()
    some = [value for of in after.values() for value in of.values()]
    few = len(some) == 9 and all(is_count(v, 300) for v in some) and not any(is_count(v, 300) for v in agfs)
    yield 3, "is a whole number of 300 items, as no value of AGF is", few
    all_of = all(is_count(v, ITEMS["mathqa"]) for v in agfs)
    yield 3, f"AGF's are whole numbers of the {ITEMS['mathqa']:,} items", all_of
    rku, wanda = after["RKU"], after["Wanda-Struct"]
    a, b = (percent(three, m, "0.4", "mathqa", "gsm8k-150") for m in ("RKU", "Wanda-Struct"))
    score = z(rku["0.4"], wanda["0.4"], 300)
    yield 3, f"With n = 300, RKU's lead over Wanda-Struct on MathQA after GSM8K tuning at 40% ({a} against {b})", True
    yield 3, f"not significant (z = {score:.1f})", abs(score) < 1.96
    a, b = (percent(three, m, "0.5", "mathqa", "gsm8k-150") for m in ("Wanda-Struct", "RKU"))
    yield 3, f"at 50% Wanda-Struct has the higher value ({a} against {b})", wanda["0.5"] > rku["0.5"]
    tuned = {m: values(three, m, "mathqa", "aqua-150") for m in ("Taylor-FO", "Wanda-Struct", "AGF", "RKU")}
    scores = {m: [z(tuned["RKU"][s], v, 2985) for s, v in of.items()] for m, of in tuned.items()}
    others = scores["Taylor-FO"] + scores["Wanda-Struct"]
    all_of = all(is_count(v, ITEMS["mathqa"]) for of in tuned.values() for v in of.values())
    yield 3, f"After AQuA tuning (n = {ITEMS['mathqa']:,})", all_of
    yield 3, f"at no sparsity (z between {min(others):.1f} and {max(others):.1f})", 0 < max(others) < 1.96
    yield 3, f"over AGF z is between {min(scores['AGF']):.1f} and {max(scores['AGF']):.1f}", min(scores["AGF"]) > 1.96
    a, b = (percent(t, "RKU", "0.4", "aqua") for t in (three, one))
    yield 3, f"differs from Table 1 in {differ} of {len(aqua)} cells (RKU at 40%: {a} against {b})", True
    gsm8k = {key: is_count(value, 1319) for key, value in three.items() if key[2] == "gsm8k"}
    odd = {key[:2] for key, whole in gsm8k.items() if not whole}
    a = percent(three, "RKU", "0.3", "gsm8k", "gsm8k-150")
    four = odd == {("RKU", "0.3"), *(("Taylor-FO", s) for s in ("0.3", "0.4", "0.5"))}
    yield 3, f"Taylor-FO's 3 published values and RKU's {a} at 30% are whole numbers of no 1,319 items", four
    yield 3, f"the other {sum(gsm8k.values())} are", True
    short = {key: value for key, value in three.items() if len(value) < 6}
    yield 3, "AGF's 46.1 is printed with one decimal", short == {("AGF", "0.3", "gsm8k", "gsm8k-150"): "0.461"}
    yield 3, "states 150 steps", True  # a quote

    # Table 4
    pairs = {(r[2], r[5]): [] for r in rows[4]}
    for r in rows[4]:
        pairs[r[2], r[5]].append(Decimal(r[7]))  # at 10% to 90%
    titles = {("Taylor-FO", ""): "(average, Taylor-FO)", ("Wanda-Struct", ""): "(average, Wanda-Struct)"}
    titles |= {("Wanda-Struct", "26"): "(layer 26)"}
    yield 4, "Layer 26 is published for RKU against Wanda-Struct only", set(pairs) == set(titles)
    yield 4, "counted from 0 or from 1 (0 is this", True
    for keep, words in (0.9, "keep 90% of a layer have an expected IoU of about"), (0.1, "keep 10% one of about"):
        yield 4, f"{words} {keep**2 / (1 - (1 - keep) ** 2):.0%}", True  # kept by both over kept by either
    yield 4, "beyond 40% sparsity. In the table the IoU never falls more in a step of 10 points beyond 40%", True
    for key, title in titles.items():
        falls = [100 * (a - b) for a, b in itertools.pairwise(pairs[key])]
        early, late = max(falls[:3]), max(falls[3:])
        points = " points" if key == ("Taylor-FO", "") else ""
        yield 4, f"{late:.2f} against {early:.2f}{points} {title}", late < early

    # Table 6
    dense = float(six["Baseline (Dense)", "0", "wikitext2", ""])
    yield 6, f"its dense {dense:.2f} on WikiText2", True
    yield 6, "windows of 2,048 tokens", True  # a length, not a published number
    elsewhere = {key[1] for n in (1, 2, 3, 7) for key in tables[n]} | {r[6] for r in rows[4]}
    only = {key[1] for key in six} - elsewhere
    yield 6, "also has 25% and 75% sparsity, which no other", only == {"0.25", "0.75"}
    ppl = {(m, t): {s: float(v) for s, v in values(six, m, t).items()} for m in PRESETS for t in ("wikitext2", "c4")}
    wiki = {s: v < ppl["Wanda-Struct", "wikitext2"][s] for s, v in ppl["RKU", "wikitext2"].items()}
    yield 6, "lower one up to 40% and the higher one from 50%", all((float(s) <= 0.4) == v for s, v in wiki.items())
    a, b = (f"{ppl[m, 'wikitext2']['0.75']:.2f}" for m in ("RKU", "Wanda-Struct"))
    yield 6, f"at 75% it is {a} against {b}", True
    yield 6, "On C4 RKU's is the higher one at every sparsity", above(ppl["RKU", "c4"], ppl["Wanda-Struct", "c4"])
    both = all(above(ppl["RKU", t], ppl["AGF", t]) for t in ("wikitext2", "c4"))
    yield 6, "at every sparsity on both data sets", both

    # Table 7
    best, worst = {}, {}
    for s, task in {key[1:3] for key in seven if key[1] != "0"}:
        cells = {m: float(v) for (m, at, t, _), v in seven.items() if (at, t) == (s, task)}
        low, high = min(cells, key=cells.get), max(cells, key=cells.get)
        best[s, task], worst[s, task] = (low, high) if METRICS.get(task) == "perplexity" else (high, low)
    perplexities = {m for (_, task), m in worst.items() if METRICS.get(task) == "perplexity"}
    yield 7, "RKU has the worst published perplexity of all methods at each sparsity, on both", perplexities == {"RKU"}
    yield 7, "the best value of no column at any sparsity", "RKU" not in best.values() and len(best) == 15
    names = {key[0] for key in seven} - {"Baseline (Dense)"}
    full = set(itertools.product(names, ["0.3", "0.5", "0.7"], {key[2] for key in seven}))
    missing = full - {key[:3] for key in seven}
    yield 7, "RKU's WinoGrande at 70% is missing", missing == {("RKU", "0.7", "winogrande")}


def above(a: dict[str, float], b: dict[str, float]) -> bool:
    return a.keys() == b.keys() and all(a[s] > b[s] for s in a)


def check_notes(text: str, rows: dict[int, list[tuple[str, ...]]]) -> list[str]:
    """What is wrong with the notes: untrue words, words that are not there, and numbers that no claim covers."""
    notes = {name: " ".join(lines) for name, lines in yaml.safe_load((PAPER / "notes.yaml").read_text()).items()}
    wrong = [f"the paper does not say {quote!r}" for quote in QUOTES if quote not in text]
    wrong += [f"the paper says {word!r}" for word in UNSAID if word in text.lower()]
    checked = 0
    for n, words, true in claims(rows):
        checked += 1
        if not true or words not in notes[f"table{n}"]:
            wrong.append(f"notes.yaml: table{n}: {words!r} " + ("is not in the notes" if true else "is not true"))
        notes[f"table{n}"] = notes[f"table{n}"].replace(words, "")
    names = r"(Table|Section) \d(\.\d)?|GSM8K|WikiText2|C4"
    for name, rest in notes.items():
        left = re.findall(r"\d\S*", re.sub(names, "", rest))
        wrong += [f"notes.yaml: {name}: {number} is not checked" for number in left]
    print(f"Notes: {checked} claims worked out")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paper", type=Path, help="text of the paper, tables in Markdown")
    paper = parser.parse_args().paper
    text = paper.read_text()
    rows = published(text)
    wrong = [line for n in rows for line in compare(n, rows[n])] + check_notes(text, rows)
    tables = sorted(PAPER.glob("*.csv"))
    wrong += [f"{path.name}: no such table" for path in tables if path.stem not in {f"table{n}" for n in rows}]
    for path in [paper, PAPER / "notes.yaml", *tables]:
        print(f'    "{path.name}": "{hashlib.sha256(path.read_bytes()).hexdigest()}",')
    print("\n".join(wrong) or "no difference")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
