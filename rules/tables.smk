"""
Tables: tidy CSV, and the same to read in Markdown and LaTeX. scripts/pruning/report/catalogue.py says which there are.

INPUT
    results/{model}/…                           what the catalogue says: outcomes, manifests, analyses
    resources/paper/…                           the paper's numbers, and footnotes on them
OUTPUT
    results/{table}.csv, .md, .tex
    results/leakage/{table}.csv                 test items found in the text that was calibrated or tuned on
"""

RESULT_TABLES = [name for name, table in CONFIG.tables.items() if table]


def leakage_settings(wildcards):
    """Alias of every text that a table's models were calibrated or tuned on -> its parquet; task -> its test items'."""
    table = CONFIG.table(wildcards.table)
    users = {name: CONFIG.calibrations[name] for name in table.calibrations}
    for name in dict.fromkeys(column.tuning for column in table.columns if column.tuning):
        own, same = CONFIG.tunings[name], users.get(name)
        other = same and (same.dataset, same.split) != (own.dataset, own.split)
        users[f"tunings.{name}" if other else name] = own  # a calibration of that name is of other data
    tasks = {}
    for name in dict.fromkeys(column.task for column in table.columns):
        task = CONFIG.tasks[name]
        if task.kind == "lm_eval":
            path = preflight.test_file(CONFIG.definition(name))
            tasks[name] = {"path": path, "first": task.first, "limit": task.limit}
        else:
            path = names.DATA.format(dataset=task.dataset, split=task.split)
            tasks[name] = {"path": path, "first": 0, "limit": None}
    sources = {name: names.DATA.format(dataset=user.dataset, split=user.split) for name, user in users.items()}
    return {"sources": sources, "tasks": tasks, "n": 8}


def leakage_files(wildcards):
    own = leakage_settings(wildcards)
    return sorted({*own["sources"].values(), *(task["path"] for task in own["tasks"].values())})


rule leakage:
    """Test items of a table that its calibration or tuning texts contain."""
    input:
        data=leakage_files,
        code=code("report", "report/leakage"),
    output:
        PLACES.leakage,
    wildcard_constraints:
        table=one_of(RESULT_TABLES),
    params:
        settings=lambda w: settings(None, **leakage_settings(w)),
        files=[],
    shell:
        report_by("report/leakage")


rule table:
    """One table of the catalogue."""
    input:
        files=lambda w: TABLES[w.table].inputs,
        code=lambda w: code("report", TABLES[w.table].maker),
    output:
        csv=f"{PLACES.table}.csv",
        md=f"{PLACES.table}.md",
        tex=f"{PLACES.table}.tex",
    wildcard_constraints:
        table=one_of(TABLES),
    resources:
        mem_mb=grown(2000),
    params:
        settings=lambda w: settings(None, **TABLES[w.table].settings),
        maker=lambda w: TABLES[w.table].maker,
        files=lambda w: TABLES[w.table].options,
    shell:
        report_by("{params.maker}")
