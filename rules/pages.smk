"""
Everything that the config names: `snakemake --cores 8 paper`, then `snakemake --report report.html paper`.

INPUT
    results/…                       all tables and figures
OUTPUT
    results/costs.csv, .md, .tex    time and memory of every stage, from the benchmark files
    results/pages/{table}.html      every table as a page of the report
    results/index.html              the first page: the result, and all tables and figures
    results/experiments.html        a list of all experiments' first pages
"""

COSTS = catalogue.costs(TOGETHER)
COSTS_TABLE = PLACES.table.format(table="costs")
PAGES = {**TABLES, "costs": COSTS}
TEMPLATES = {
    name: [names.own(f"report/{file}") for file in (f"{name}.html.j2", "page.html.j2", "page.css")]
    for name in ("table", "index", "experiments")
}


# Time and peak memory of every stage that made the tables and figures.
use rule table as costs with:
    input:
        # Ancient: a figure drawn anew does not make the costs anew; delete results/costs.csv for fresh ones.
        ancient(expand(f"{PLACES.table}.csv", table=TABLES)),
        ancient(expand(f"{PLACES.figure}.svg", figure=FIGURES)),
        code=code("report", COSTS.maker),
    output:
        **{form: f"{COSTS_TABLE}.{form}" for form in ("csv", "md", "tex")},
    resources:
        mem_mb=grown(1000),
    params:
        settings=lambda w: settings(None, **COSTS.settings),
        maker=COSTS.maker,
        files=COSTS.options,


rule page:
    """A table as a page to read."""
    input:
        markdown=f"{PLACES.table}.md",
        template=TEMPLATES["table"],
        code=code("report", "report/pages/table"),
    output:
        report(
            PLACES.page,
            caption="../report/caption.rst",
            category="Tables",
            labels=lambda w: {"table": PAGES[w.table].title or w.table},
        ),
    wildcard_constraints:
        table=one_of(PAGES),
    params:
        settings=settings(None),
        title=lambda w: w.table,
        caption=lambda w: PAGES[w.table].caption,
        files=named,
    shell:
        report_by("report/pages/table")


rule first_page:
    """The result in words, a figure and a table; below, all the others."""
    input:
        expand(f"{PLACES.table}.{{form}}", table=PAGES, form=["csv", "md"]),
        expand(f"{PLACES.figure}.svg", figure=FIGURES),
        template=TEMPLATES["index"],
        code=code("report", "report/pages/index"),
    output:
        PLACES.index,
    params:
        settings=lambda w: settings(None, **catalogue.first_page(CONFIG, PAGES, FIGURES)),
        files=lambda w, input: [
            *(f"--file=table={PLACES.table}", f"--file=figure={PLACES.figure}"),
            *(f"--file=experiments={names.EXPERIMENTS}", *named(w, input)),
        ],
    shell:
        report_by("report/pages/index")


rule experiments:
    """The list of all experiments in results/, this one's page among them."""
    input:
        index=PLACES.index,
        template=TEMPLATES["experiments"],
        code=code("report", "report/pages/experiments"),
    output:
        names.EXPERIMENTS,
    params:
        settings=settings(None),
        files=named,
    shell:
        report_by("report/pages/experiments")


rule paper:
    """Every table and figure."""
    input:
        expand(f"{PLACES.table}.{{form}}", table=PAGES, form=["csv", "md", "tex"]),
        expand(PLACES.page, table=PAGES),
        expand(f"{PLACES.figure}.{{form}}", figure=FIGURES, form=["svg", "png"]),
        PLACES.index,
        names.EXPERIMENTS,
