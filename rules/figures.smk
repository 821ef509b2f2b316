"""
Figures, in one style, from tables only: changing a figure's looks runs nothing else.

INPUT
    CSV and parquet files of the analyses, as scripts/pruning/report/catalogue.py says
    results/{model}/masks/…                             of `widths`
OUTPUT
    results/analysis/widths.csv                         what each layer keeps
    results/figures/{figure}.svg, .png
"""


rule widths:
    """What each layer keeps, by method."""
    input:
        masks=[
            path.format(model=model)
            for s in catalogue.curve_sparsities(CONFIG)
            for path in of_methods(names.MASK.replace("{calib}", CALIB).replace("{sparsity}", str(s)))
            for model in EXPERIMENT.models
        ],
        code=code("report", "report/widths"),
    output:
        PLACES.widths,
    params:
        settings=settings(
            None,
            models=EXPERIMENT.models,
            calib=CALIB,
            methods=EXPERIMENT.methods,
            sparsities=catalogue.curve_sparsities(CONFIG),
        ),
        files=lambda w: f"--file=masks={names.MASK}",
    shell:
        report_by("report/widths")


rule figure:
    """One figure of the catalogue."""
    input:
        files=lambda w: FIGURES[w.figure].inputs,
        code=lambda w: code("report", FIGURES[w.figure].maker),
    output:
        svg=report(
            f"{PLACES.figure}.svg",
            caption="../report/caption.rst",
            category="Figures",
            labels=lambda w: {"figure": FIGURES[w.figure].title},
        ),
        png=f"{PLACES.figure}.png",
    wildcard_constraints:
        figure=one_of(FIGURES),
    resources:
        mem_mb=grown(2000),
    params:
        settings=lambda w: settings(None, **FIGURES[w.figure].settings),
        maker=lambda w: FIGURES[w.figure].maker,
        files=lambda w: FIGURES[w.figure].options,
        caption=lambda w: FIGURES[w.figure].caption,
    shell:
        report_by("{params.maker}")
