"""
Figures, in one style, from tables only: changing a figure's looks runs nothing else.

INPUT
    CSV and parquet files of the analyses, as scripts/pruning/report/catalogue.py says
OUTPUT
    results/figures/{figure}.svg, .png
"""

FIGURES = catalogue.figures(CONFIG)


rule figure:
    """One figure of the catalogue."""
    input:
        files=lambda w: FIGURES[w.figure].inputs,
        code=lambda w: code("figure", f"report/figures/{FIGURES[w.figure].maker}"),
    output:
        svg=report(
            f"{PLACES.figure}.svg",
            caption="../report/caption.rst",
            category="Figures",
            labels=lambda w: {"figure": FIGURES[w.figure].title},
        ),
        png=f"{PLACES.figure}.png",
    log:
        log_of(PLACES.figure),
    benchmark:
        benchmark_of(PLACES.figure)
    wildcard_constraints:
        figure=one_of(FIGURES),
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=grown(2000),
    params:
        settings=lambda w: settings(None, **FIGURES[w.figure].settings),
        maker=lambda w: FIGURES[w.figure].maker,
        files=lambda w: FIGURES[w.figure].options,
        caption=lambda w: FIGURES[w.figure].caption,
    shell:
        "python {input.code[0]:q} --settings {params.settings:q} --figure {params.maker} {params.files:q} "
        "--output-svg {output.svg:q} --output-png {output.png:q} > {log:q} 2>&1"
