"""
Figures, in one house style, from tables only: changing a figure's looks runs nothing else.

INPUT
    CSV and parquet files of the analyses (`figure_tables` in rules/common.smk)
OUTPUT
    results/figures/{figure}.svg, .png
"""


rule figure:
    """One figure; scripts/pruning/report/figures/{figure}.py draws it."""
    input:
        tables=figure_files,
        code=lambda w: code("figure", f"report/figures/{w.figure}"),
    output:
        svg=report(
            "results/figures/{figure}.svg",
            caption="../report/figure.rst",
            category="Figures",
            labels={"figure": "{figure}"},
        ),
        png="results/figures/{figure}.png",
    log:
        "results/logs/figures/{figure}.log",
    benchmark:
        "results/benchmarks/figures/{figure}.tsv"
    wildcard_constraints:
        figure=one_of(FIGURES),
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=2000,
    params:
        settings=figure_settings,
        tables=figure_options,
    shell:
        "python scripts/figure.py --settings {params.settings:q} --figure {wildcards.figure} {params.tables:q} "
        "--output-svg {output.svg:q} --output-png {output.png:q} > {log:q} 2>&1"
