"""The notes below a table of results, five at most; docs/explanation/statistics.md has the rest."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from pruning.analysis.comparison import TESTS, UNCOMPENSATED, UNTUNED, WITH_DENSE
from pruning.core import names
from pruning.core.limits import LEAST_WINDOWS, MOST_CUT_OFF
from pruning.report.printing import comparisons, percent

ASKED = {"chat_template": "the model's chat format", "max_gen_toks": "answers of at most {} tokens"}
ASKED |= {"first": "items from number {:,} on"}


def notes(
    model: str, dense: pd.DataFrame, pruned: pd.DataFrame, published: pd.DataFrame, settings: Mapping[str, Any]
) -> list[str]:
    """Notes of one model and calibration: what the numbers are, on which items they were measured, how they were
    compared, what was removed, and what to know of the model and of the paper's numbers beside them."""
    found = [
        cells(dense, pruned, settings["models"][model].get("dtype"), settings["confidence"]),
        measured_on(dense, pruned, settings),
        tests(dense, pruned, settings),
        removed(pruned, settings),
        origins(settings["models"][model]["note"], pruned, published, settings),
    ]
    return [" ".join(sentences) for sentences in found if sentences]


def cells(dense: pd.DataFrame, pruned: pd.DataFrame, dtype: str | None, confidence: float) -> list[str]:
    """What a cell holds. `dtype` is the model's, where it is a short one: its answers are not a machine's to repeat."""
    level = f"{100 * confidence:g}%"
    what = {
        "accuracy": f"accuracy in per cent (higher is better) with Wilson's {level} interval",
        "perplexity": f"perplexity per token (lower is better) with a {level} t interval over blocks of "
        "neighbouring windows",
        "bits": f"bits per byte of UTF-8 text (lower is better) with a {level} t interval over blocks of neighbouring "
        "pieces",
        "divergence": "kl, KL divergence of next tokens from the dense model's in nats per token (lower is better), "
        "with the same interval",
    }
    found = [
        f"Each cell: {'; '.join(what[kind] for kind in pruned['kind'].unique())}. Intervals and tests cover the choice "
        f"of test items, not that of the calibration data: calibration seed {pruned['seed'].iloc[0]} only."
    ]
    if (dense["metric"] == "acc_norm").any():
        found.append("acc: the likeliest option; acc_norm: the likeliest per character of the option's text.")
    if (pd.concat([dense, pruned])["cut_off"] > 0).any():
        found.append(
            "Cut off: the share of the answers that reached the token limit or ran into a loop, where any did."
        )
    long = dense[dense["cut_off"] > MOST_CUT_OFF].drop_duplicates("task")
    if len(long):
        named = ", ".join(f"{percent(row.cut_off)[0]}% (`{row.task}`)" for row in long.itertuples())
        found.append(
            f"Warning: of the dense model's answers {named} were cut off, more than {100 * MOST_CUT_OFF:g}%: their "
            "accuracy measures brevity as well. Raise the task's `max_gen_toks`."
        )
    if dtype and dense["mean_tokens"].notna().any():
        found.append(
            f"Answers were generated in {dtype}, whose rounding depends on the processor and on the batch size: other "
            "machines answer some items otherwise."
        )
    return found


def measured_on(dense: pd.DataFrame, pruned: pd.DataFrame, settings: Mapping[str, Any]) -> list[str]:
    """Which items were used, how they were asked where the config says so, and what the calibration data share with
    them."""
    sizes = []
    for row in dense.itertuples():
        unit = "items"
        if row.kind != "accuracy":
            what, parts = ("bytes", "pieces") if row.kind == "bits" else ("predicted tokens", "windows")
            parts = settings["tasks"][row.column].get("parts", parts)
            unit = f"{what} in {row.windows} {parts}"
            if row.windows < LEAST_WINDOWS:
                unit += f" (fewer than {LEAST_WINDOWS} {parts}: their tests tell little)"
        sizes.append(f"{settings['tasks'][row.column]['title']} n = {row.n:,} {unit} (`{row.metric}`)")
    early = stopped(dense, pruned, settings)
    same = "the same for all variants" + ", but for those that stopped early" * bool(early)
    return [f"Items: {'; '.join(sizes)}; {same}.", *early, *asked(settings), *leakage(pruned, settings)]


def stopped(dense: pd.DataFrame, pruned: pd.DataFrame, settings: Mapping[str, Any]) -> list[str]:
    """Which models were evaluated on the first items alone (a task's `stop_early`)."""
    found = []
    for column, entry in settings["tasks"].items():
        own = pruned[pruned["column"] == column]
        short = own[own["n"] < max(own["n"].max(), dense.loc[dense["task"] == entry["task"], "n"].max())]
        variants = short.drop_duplicates(["method", "sparsity"]).itertuples()
        if named := ", ".join(f"`{row.method}` at {row.sparsity}%" for row in variants):
            early = entry["stop_early"]
            found.append(
                f"{column}: {named} were evaluated and compared on the first {early['after']} items alone: the upper "
                f"end of the {100 * early['confidence']:g}% interval was below {100 * early['below']:g}% there."
            )
    return found


def asked(settings: Mapping[str, Any]) -> list[str]:
    """How questions were put where the config says otherwise than lm-eval's task."""
    found = {}
    for entry in settings["tasks"].values():
        asked, how = entry.get("asked") or {}, []
        if (examples := asked.get("num_fewshot")) is not None:
            same = ", the same ones before every question" if examples and asked["shared_examples"] else ""
            how.append(f"{examples or 'no'} worked example{'' if examples == 1 else 's'}{same}")
        how += [text.format(asked[key]) for key, text in ASKED.items() if asked.get(key)]
        if how:
            found[entry["title"]] = f"{entry['title']}: {', '.join(how)}."
    return list(found.values())


def leakage(pruned: pd.DataFrame, settings: Mapping[str, Any]) -> list[str]:
    """What test items share with the data that were calibrated or tuned on (leakage.csv): with all records of a split,
    or all that were asked for a model's own answers, of which fewer may have been used."""
    tunings = pruned["tuning"].dropna()
    used = {*pruned["calib"], *tunings, *(f"tunings.{name}" for name in tunings)}
    tasks = {entry["task"] for entry in settings["tasks"].values()}
    found = [r for r in settings.get("leakage", []) if r["source"] in used and r["task"] in tasks]
    shared = [r for r in found if r["identical"] or r["overlapping"]]
    parts = [
        f"`{r['task']}` against `{r['source']}`: {r['identical']} identical, {r['overlapping']} sharing half of their "
        f"{r['n']}-grams, of {r['items']}"
        for r in shared
    ]
    if {r["task"] for r in shared} != tasks:
        parts.append("no other task shares any" if parts else "none")
    where = "the split that calibration or tuning data were drawn from"
    return [f"Test items that are also in {where}: {'; '.join(parts)}."] if found else []


def tests(dense: pd.DataFrame, pruned: pd.DataFrame, settings: Mapping[str, Any]) -> list[str]:
    """How results were compared, with what, and what the marks mean."""
    found, of = [], settings["reference"]
    same = "equal cost" if settings.get("at") else "the same sparsity"
    if pruned["p_value"].notna().any():
        text, _, method = of.partition("/")
        reference = {
            UNTUNED: "the same model before LoRA recovery",
            UNCOMPENSATED: "the same method without reconstruction",
            WITH_DENSE: "the dense model",
        }.get(of, f"the reference method, `{of}`, at {same}")
        if of not in (UNTUNED, UNCOMPENSATED, WITH_DENSE, *settings["methods"]):
            reference = f"{f'`{method}`' if method else 'the same method'} calibrated on `{text}`, at {same}"
        named = ", ".join(
            f"{TESTS[kind]} for {kind}" for kind in pruned.loc[pruned["p_value"].notna(), "kind"].unique()
        )
        found.append(
            f"n.s.: not significantly different from {reference} ({named}; p > {1 - settings['confidence']:.3g} after "
            f"Holm's adjustment over the {comparisons(pruned['compared'].max())} of this table; p-values are in the "
            "CSV)."
        )
    clustered = dense[dense["clusters"].notna()].drop_duplicates("task")
    if len(clustered):
        titles = [settings["tasks"][column]["title"] for column in clustered["column"]]
        named = ", ".join(f"{title} {n}" for title, n in zip(titles, clustered["clusters"], strict=True))
        found.append(f"Items share templates ({named}): Wilson's interval speaks of these with other instances.")
        if pruned["p_cluster"].notna().any():
            effects = pruned["design_effect"].dropna()
            spread = (
                f" (design effect: median {effects.median():.1f}, largest {effects.max():.1f})" if len(effects) else ""
            )
            found.append(
                "So does McNemar's test; a t-test over templates speaks of others of the same kind, and n.s. is told "
                "unless both are significant, the latter after Holm over its own "
                f"{comparisons(pruned['by_cluster'].max())}{spread}."
            )
    where = "of its column" if settings["layout"] == "wide" or settings.get("at") else "at its sparsity"
    return [
        *found,
        f"Bold: best {where}, dense left aside; †: not significantly worse (same tests, Holm within the column). Both "
        "were chosen by looking at these items, so no p-value is given.",
    ]


def removed(pruned: pd.DataFrame, settings: Mapping[str, Any]) -> list[str]:
    """How much of the model was removed, and what methods prune beside neurons or keep to in place of a number."""
    models = pruned.drop_duplicates(["method", "sparsity"])
    shares = []
    for sparsity, group in models.groupby("sparsity", sort=True):
        low, high = percent(group["params_removed"].min(), group["params_removed"].max())
        shares.append(f"{low}% at sparsity {sparsity}%" if low == high else f"{low}–{high}% at sparsity {sparsity}%")
    found = [
        "Sparsity is the share of FFN neurons removed, of a mixture that of experts or of the neurons in them; dense "
        f"is the unpruned model. Share of all the model's parameters removed: {'; '.join(shares)}."
    ]
    deviation = names.percent(models["achieved_sparsity"]) - models["sparsity"].astype(float)
    off = models[deviation.abs() > 0.5]
    if len(off):
        listed = [f"`{r.method}` at {r.sparsity}%: {names.percent(r.achieved_sparsity):.1f}%" for r in off.itertuples()]
        found.append(f"Achieved sparsity more than 0.5 points off the nominal one: {'; '.join(listed)}.")
    kept, others, by_size = settings.get("kept_to", {}), settings.get("others", {}), {}
    for method in [method for method in others if method not in kept]:
        by_size.setdefault(others[method], []).append(f"`{method}`")
    for title, listed in by_size.items():
        found.append(f"{', '.join(listed)}: {title} are pruned as well, and count as neurons of as many parameters.")
    measured = "by times measured on this machine, noise included"
    costs = {"flops": ("operations for a prompt", "by arithmetic")}
    costs |= {"prefill": ("time for a prompt", measured), "decode": ("time for a token", measured)}
    for method, per in kept.items():
        cost, how = costs[per]
        what = f"takes no more {cost} than a model whose layers have all lost this share of their neurons"
        if method in settings["ranked"]:  # a ranking cannot promise that where time is not in proportion to width
            what = f"loses neurons and {others[method]} that take as much {cost}, on average, as this share of neurons"
        found.append(f"`{method}` {what}, {how} (latency_table.parquet): of parameters another share is removed.")
    return found


def origins(note: str | None, pruned: pd.DataFrame, published: pd.DataFrame, settings: Mapping[str, Any]) -> list[str]:
    """What to know of the model, of recoveries, and of the paper's numbers beside the measured ones."""
    found = [f"`{pruned['model'].iloc[0]}`: {note.rstrip('.')}."] if note else []
    entries = settings["tasks"].values()
    if len({bool(entry["tuning"]) for entry in entries}) == 2:
        found.append("Columns without `tuned on`: the pruned models as they are, before any recovery.")
    tunings = {entry["tuning"]: entry["note"] for entry in entries if entry.get("note")}
    found += [f"`{tuning}`: {note.rstrip('.')}." for tuning, note in tunings.items()]
    shown, presets = set(pruned.loc[pruned["published"].notna(), "method"]), []
    for method, candidates in published[["method", "presets"]].drop_duplicates().itertuples(index=False):
        if shown & set(candidates.split(";")):
            presets.append(f"{method} = {' or '.join(f'`{preset}`' for preset in candidates.split(';'))}")
    if presets:
        found += [
            f"paper: the value published in {settings['paper'].replace('table', 'Table ')} of the RKU paper, and "
            f"measured minus published; never a reproduction claim ({'; '.join(presets)}; of two presets either may be "
            "the published one, as the paper does not say how it allocates sparsity to layers).",
            *settings["paper_notes"],
        ]
    return found
