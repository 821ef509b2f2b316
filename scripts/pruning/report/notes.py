"""The notes below a table of results: what the numbers are, how they were compared, what to beware of."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from pruning.analysis.comparison import TESTS, UNCOMPENSATED, UNTUNED
from pruning.core.limits import LEAST_WINDOWS
from pruning.report.printing import comparisons, percent

VARIANT = ["calib", "method", "sparsity"]


def notes(
    model: str, dense: pd.DataFrame, pruned: pd.DataFrame, published: pd.DataFrame, settings: Mapping[str, Any]
) -> list[str]:
    """Of one calibration's block."""
    entry = settings["models"][model]
    found = [f"`{model}`: {entry['note'].rstrip('.')}."] if entry["note"] else []
    found += legend(dense, pruned, settings) + widths(pruned) + published_notes(pruned, published, settings)
    found += asked(settings) + rounding(dense, entry.get("dtype"))
    tunings = {entry["tuning"]: entry["note"] for entry in settings["tasks"].values() if entry.get("note")}
    return found + [f"`{tuning}`: {note.rstrip('.')}." for tuning, note in tunings.items()]


def legend(dense: pd.DataFrame, pruned: pd.DataFrame, settings: Mapping[str, Any]) -> list[str]:
    """The notes that say what the numbers are and how they were compared."""
    kinds = list(pruned["kind"].unique())
    level = f"{100 * settings['confidence']:g}%"
    what = {
        "accuracy": f"accuracy in per cent (higher is better) with Wilson's {level} interval",
        "perplexity": f"perplexity per token (lower is better) with a {level} t interval over blocks of "
        "neighbouring windows",
    }
    shown = "; ".join(what[kind] for kind in kinds)
    seed = pruned["seed"].iloc[0]
    notes = [
        f"Each cell: {shown}. Intervals and tests cover the choice of test items, not that of the calibration text: "
        f"calibration seed {seed} only.",
        f"Size of the tests: {_sizes(dense, settings)}. All variants were scored on the same items"
        + (", but for those that stopped early." if (stopped := _stopped(dense, pruned, settings)) else "."),
        *stopped,
        "Sparsity is the share of FFN neurons removed. dense is the unpruned model, sparsity 0: one measurement, "
        "repeated under every sparsity.",
    ]
    notes += _constraints(settings)
    tuned = [bool(entry["tuning"]) for entry in settings["tasks"].values()]
    if any(tuned) and not all(tuned):
        notes.append("Columns without `tuned on`: the pruned models as they are, before any recovery.")
    alpha = f"{1 - settings['confidence']:.3g}"
    same = "equal cost" if settings.get("at") else "the same sparsity"
    text, _, method = settings["reference"].partition("/")
    reference = {
        UNTUNED: "the same model before LoRA recovery",
        UNCOMPENSATED: "the same method without ridge compensation",
    }.get(settings["reference"], f"the reference method, `{settings['reference']}`, at {same}")
    if settings["reference"] not in (UNTUNED, UNCOMPENSATED, *settings["methods"]):
        reference = f"{f'`{method}`' if method else 'the same method'} calibrated on `{text}`, at {same}"
    if pruned["p_value"].notna().any():
        named = ", ".join(f"{TESTS[kind]} for {kind}" for kind in kinds)
        notes.append(
            f"n.s.: not significantly different from {reference}, on the same items ({named}; p > {alpha} after "
            f"Holm's adjustment over the {comparisons(pruned['compared'].max())} of this table). A compared "
            "value without n.s. differs significantly, up or down. Differences, intervals and p-values are in the CSV "
            "beside this table."
        )
    notes += _cluster_notes(dense, pruned, settings)
    where = "of its column" if settings["layout"] == "wide" or settings.get("at") else "at its sparsity"
    notes.append(
        f"Bold: best {where}, dense left aside. †: not significantly worse than the best (same tests, Holm within the "
        "column). No p-value is given for either: the best was chosen by looking at these very items."
    )
    return notes + _leakage(pruned, settings)


def _constraints(settings: Mapping[str, Any]) -> list[str]:
    """What methods cut beside neurons, and what they keep to in place of a number of parameters."""
    cut, kept, notes = settings.get("groups", []), settings.get("kept_to", {}), []
    if by_size := [method for method in cut if method not in kept]:
        names = ", ".join(f"`{method}`" for method in by_size)
        notes.append(
            f"{names}: key-value groups of attention are cut as well, and count as neurons of as many parameters."
        )
    for method, per in kept.items():
        cost = {"flops": "operations for a prompt", "prefill": "time for a prompt", "decode": "time for a token"}[per]
        how = "by arithmetic" if per == "flops" else "by times measured on this machine, noise included"
        what = f"takes no more {cost} than a model whose layers have all lost this share of their neurons, {how}"
        if method in settings["ranked"]:  # a ranking cannot promise that where time is not in proportion to width
            what = (
                f"loses neurons, and key-value groups of attention, that take as much {cost} as this share of all "
                f"neurons, each at the average of its kind, {how}"
            )
        notes.append(f"`{method}` {what} (latency_table.parquet): of parameters another share is gone.")
    return notes


def asked(settings: Mapping[str, Any]) -> list[str]:
    """How questions were put where the config says otherwise than lm-eval's task."""
    notes = {}
    for entry in settings["tasks"].values():
        asked, how = entry.get("asked") or {}, []
        if (examples := asked.get("num_fewshot")) is not None:
            same = ", the same ones before every question" if examples and asked["shared_examples"] else ""
            how.append(f"{examples or 'no'} worked example{'' if examples == 1 else 's'}{same}")
        if asked.get("chat_template"):
            how.append("the model's chat format")
        if asked.get("max_gen_toks"):
            how.append(f"answers of at most {asked['max_gen_toks']} tokens")
        if asked.get("first"):
            how.append(f"items from number {asked['first']:,} on")
        if how:
            notes[entry["title"]] = f"{entry['title']}: {', '.join(how)}."
    return list(notes.values())


def rounding(dense: pd.DataFrame, dtype: str | None) -> list[str]:
    """That answers generated in a short format of numbers, where a model is in one, are not a machine's to repeat."""
    if not dtype or dense["mean_tokens"].isna().all():
        return []
    return [
        f"Answers were generated in {dtype}, in which rounding now and then settles which token is likeliest: the same "
        "model answers some questions otherwise on another processor, or in batches of another size. Intervals and "
        "tests do not cover that."
    ]


def _cluster_notes(dense: pd.DataFrame, pruned: pd.DataFrame, settings: Mapping[str, Any]) -> list[str]:
    """What the tests speak of where items share templates, and what two forms of an accuracy are."""
    of_task = {entry["task"]: entry["title"] for column, entry in reversed(settings["tasks"].items())}
    clustered = dense[dense["clusters"].notna()].drop_duplicates("task")
    notes = []
    if len(clustered):
        named = ", ".join(f"{of_task[row.task]} {row.clusters}" for row in clustered.itertuples())
        spoken = "Wilson's interval speaks of these stories with other numbers."
        if pruned["p_cluster"].notna().any():
            spoken = (
                "Wilson's interval and McNemar's test speak of these stories with other numbers, a t-test over "
                "templates (cluster-robust) of other stories of the same kind: n.s. unless both are significant, the "
                f"latter after Holm over its own {comparisons(pruned['compared_by_cluster'].max())}."
            )
        notes.append(f"Items share templates ({named}). {spoken}")
        if (effects := pruned["design_effect"].dropna()).size:
            notes[-1] += (
                f" Design effect of the differences (their variance with templates over that without): median "
                f"{effects.median():.1f}, largest {effects.max():.1f}."
            )
    if (dense["metric"] == "acc_norm").any():
        notes.append("acc: the likeliest option; acc_norm: the likeliest a character of the option's text.")
    return notes


def _leakage(pruned: pd.DataFrame, settings: Mapping[str, Any]) -> list[str]:
    """What test items share with the text that was calibrated or tuned on (leakage.csv)."""
    used = {*pruned["calib"], *pruned["tuning"].dropna()}
    tasks = {entry["task"] for entry in settings["tasks"].values()}
    found = [r for r in settings.get("leakage", []) if r["source"] in used and r["task"] in tasks]
    if not found:
        return []
    parts = [
        f"`{r['task']}` against `{r['source']}`: {r['identical']} identical, {r['overlapping']} sharing half of their "
        f"{r['n']}-grams, of {r['items']}"
        for r in found
        if r["identical"] or r["overlapping"]
    ]
    touched = {r["task"] for r in found if r["identical"] or r["overlapping"]}
    rest = [] if touched == tasks else ["no other task shares any" if parts else "none"]
    return [f"Test items found in the text that was calibrated or tuned on: {'; '.join(parts + rest)}."]


def _sizes(dense: pd.DataFrame, settings: Mapping[str, Any]) -> str:
    parts = []
    of_task = {entry["task"]: entry for column, entry in reversed(settings["tasks"].items())}
    for row in dense.itertuples():
        unit = "items"
        if of_task[row.task]["kind"] == "perplexity":
            unit = f"predicted tokens in {row.windows} windows"
            if row.windows < LEAST_WINDOWS:
                unit += f" (fewer than {LEAST_WINDOWS} windows: their tests tell little)"
        parts.append(f"{of_task[row.task]['title']} n = {row.n:,} {unit} (`{row.metric}`)")
    return "; ".join(parts)


def _stopped(dense: pd.DataFrame, pruned: pd.DataFrame, settings: Mapping[str, Any]) -> list[str]:
    """Which models were asked the first items alone (a task's `stop_early`)."""
    notes = []
    for column, entry in settings["tasks"].items():
        task, tuning = entry["task"], entry["tuning"]
        own = pruned[(pruned["task"] == task) & (pruned["tuning"].fillna("") == (tuning or ""))]
        short = own[own["n"] < max(own["n"].max(), dense.loc[dense["task"] == task, "n"].max())]
        named = ", ".join(f"`{row.method}` at {row.sparsity}%" for row in short.drop_duplicates(VARIANT).itertuples())
        if named:
            early = entry["stop_early"]
            notes.append(
                f"{column}: {named} were asked, and compared on, the first {early['after']} items alone: the upper end "
                f"of the {100 * early['confidence']:g}% interval was below {100 * early['below']:g}% there."
            )
    return notes


def widths(pruned: pd.DataFrame) -> list[str]:
    """How much of the model went, and where the sparsity is not the nominal one."""
    models = pruned.drop_duplicates(["method", "sparsity"])
    removed = []
    for sparsity, group in models.groupby("sparsity", sort=True):
        low, high = percent(group["params_removed"].min(), group["params_removed"].max())
        removed.append(f"{low}% at sparsity {sparsity}%" if low == high else f"{low}–{high}% at sparsity {sparsity}%")
    notes = [f"Share of all the model's parameters removed: {'; '.join(removed)}."]
    deviation = 100 * models["achieved_sparsity"] - models["sparsity"].astype(float)
    off = models[deviation.abs() > 0.5 + 1e-9]  # 1e-9: half a point exactly is no more than half a point
    if len(off):
        listed = [f"`{r.method}` at {r.sparsity}%: {100 * r.achieved_sparsity:.1f}%" for r in off.itertuples()]
        notes.append(f"Achieved sparsity more than 0.5 points off the nominal one: {'; '.join(listed)}.")
    return notes


def published_notes(pruned: pd.DataFrame, published: pd.DataFrame, settings: Mapping[str, Any]) -> list[str]:
    """What a published value beside a measured one means, and the known trouble with it."""
    shown = set(pruned.loc[pruned["published"].notna(), "method"])
    readings = []
    for method, presets in published[["method", "presets"]].drop_duplicates().itertuples(index=False):
        candidates = presets.split(";")
        if shown & set(candidates):
            readings.append(f"{method} = {' or '.join(f'`{preset}`' for preset in candidates)}")
    if not readings:
        return []
    return [
        f"paper: the value published in {settings['paper'].replace('table', 'Table ')} of the RKU paper, and measured "
        f"minus published. The paper does not say how it allocates sparsity to layers: {'; '.join(readings)}. Where "
        "two presets are named, one published row has two candidate readings and stands beside both; never a "
        "reproduction claim.",
        *settings["paper_notes"],
    ]
