"""
Everything that the config names: `snakemake --cores 8 paper`, then `snakemake --report report.html paper`.

INPUT
    results/…                       all tables and figures
OUTPUT
    results/costs.csv, .md, .tex    time and memory of every stage, from the benchmark files
    results/pages/{table}.html      every table as a page of the report
"""

COSTS = catalogue.costs(CONFIG)
COSTS_TABLE = names.TABLE.format(table="costs")
PAGES = {**TABLES, "costs": COSTS}


rule costs:
    """Time and peak memory of every stage that made the tables and figures."""
    input:
        # Ancient: a figure drawn anew does not make the costs anew; delete results/costs.csv for fresh ones.
        ancient(expand(f"{names.TABLE}.csv", table=TABLES)),
        ancient(expand(f"{names.FIGURE}.svg", figure=FIGURES)),
        code=code("table", f"report/tables/{COSTS.maker}"),
    output:
        csv=f"{COSTS_TABLE}.csv",
        md=f"{COSTS_TABLE}.md",
        tex=f"{COSTS_TABLE}.tex",
    log:
        log_of(COSTS_TABLE),
    benchmark:
        benchmark_of(COSTS_TABLE)
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=grown(1000),
    params:
        settings=lambda w: settings(None, **COSTS.settings),
        maker=COSTS.maker,
        files=COSTS.options,
    shell:
        "python {input.code[0]:q} --settings {params.settings:q} --maker {params.maker} {params.files:q} "
        "--output-csv {output.csv:q} --output-md {output.md:q} --output-tex {output.tex:q} > {log:q} 2>&1"


rule page:
    """A table as a page to read."""
    input:
        table=f"{names.TABLE}.md",
        code=code("page"),
    output:
        report(names.PAGE, caption="../report/caption.rst", category="Tables", labels={"table": "{table}"}),
    log:
        log_of(names.PAGE),
    benchmark:
        benchmark_of(names.PAGE)
    wildcard_constraints:
        table=one_of(PAGES),
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=grown(1000),
    params:
        title=lambda w: w.table,
        caption=lambda w: PAGES[w.table].caption,
    shell:
        "python {input.code[0]:q} --markdown {input.table:q} --output {output:q} > {log:q} 2>&1"


rule paper:
    """Every table and figure."""
    input:
        expand(f"{names.TABLE}.{{form}}", table=PAGES, form=["csv", "md", "tex"]),
        expand(names.PAGE, table=PAGES),
        expand(f"{names.FIGURE}.{{form}}", figure=FIGURES, form=["svg", "png"]),
