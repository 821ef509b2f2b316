"""
Tables: tidy CSV, and the same to read in Markdown and LaTeX. scripts/pruning/report/catalogue.py says which there are.

INPUT
    results/{model}/…                           what the catalogue says: outcomes, manifests, analyses
    resources/paper/…                           the paper's numbers, and footnotes on them
OUTPUT
    results/{table}.csv, .md, .tex
    results/leakage/{table}.csv                 test items that are also in the calibration or tuning data
"""

RESULT_TABLES = [name for name, table in CONFIG.tables.items() if table]


def leakage_settings(wildcards):
    """Alias of the data that a table's models were calibrated or tuned on -> its parquet and, of a model's answers, the
    items that were asked; task -> likewise its test items."""
    table = CONFIG.table(wildcards.table)
    users = {name: CONFIG.calibrations[name] for name in table.calibrations}
    for name in dict.fromkeys(column.tuning for column in table.columns if column.tuning):
        own, same = CONFIG.tunings[name], users.get(name)
        other = same and any(getattr(same, key) != getattr(own, key) for key in ("dataset", "split", "answers"))
        users[f"tunings.{name}" if other else name] = own  # a calibration of that name is of other data

    def part(name):
        """The items that a task evaluates models on."""
        task = CONFIG.tasks[name]
        if task.kind == "lm_eval":
            path = preflight.test_file(CONFIG.definition(name))
            return {"path": path, "first": task.first, "limit": task.limit}
        return whole(task)

    def whole(user):
        return {"path": names.DATA.format(dataset=user.dataset, split=user.split), "first": 0, "limit": None}

    tasks = {name: part(name) for name in dict.fromkeys(column.task for column in table.columns)}
    sources = {name: part(user.answers) if user.answers else whole(user) for name, user in users.items()}
    return {"sources": sources, "tasks": tasks, "n": 8}


def leakage_files(wildcards):
    own = leakage_settings(wildcards)
    return sorted({each["path"] for of in ("sources", "tasks") for each in own[of].values()})


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
