"""
Everything that the config names: `snakemake --cores 8 paper`, then `snakemake --report report.html paper`.

INPUT
    results/…                       all tables and figures
OUTPUT
    results/costs.csv, .md, .tex    time and memory of every stage, from the benchmark files
    results/pages/{table}.html      every table as a page of the report
"""


rule costs:
    """Time and peak memory of every stage that made the tables and figures."""
    input:
        # Ancient: a figure drawn anew does not make the costs anew; delete results/costs.csv for fresh ones.
        ancient(expand("results/{table}.csv", table=paper_tables())),
        ancient(expand("results/figures/{figure}.svg", figure=FIGURES)),
        code=code("costs"),
    output:
        csv="results/costs.csv",
        md="results/costs.md",
        tex="results/costs.tex",
    log:
        "results/logs/costs.log",
    benchmark:
        "results/benchmarks/costs.tsv"
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=1000,
    params:
        benchmarks="results/benchmarks",
    shell:
        "python scripts/costs.py --benchmarks {params.benchmarks:q} --output-csv {output.csv:q} --output-md {output.md:q} "
        "--output-tex {output.tex:q} > {log:q} 2>&1"


rule page:
    """A table as a page to read."""
    input:
        table="results/{table}.md",
        code=code("page"),
    output:
        report(
            "results/pages/{table}.html", caption="../report/table.rst", category="Tables", labels={"table": "{table}"}
        ),
    log:
        "results/logs/pages/{table}.log",
    benchmark:
        "results/benchmarks/pages/{table}.tsv"
    wildcard_constraints:
        table=one_of([*paper_tables(), "costs"]),
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=1000,
    params:
        title=lambda w: w.table,
    shell:
        "python scripts/page.py --markdown {input.table:q} --output {output:q} > {log:q} 2>&1"


rule paper:
    """Every table and figure."""
    input:
        expand("results/{table}.{form}", table=[*paper_tables(), "costs"], form=["csv", "md", "tex"]),
        expand("results/pages/{table}.html", table=[*paper_tables(), "costs"]),
        expand("results/figures/{figure}.{form}", figure=FIGURES, form=["svg", "png"]),
