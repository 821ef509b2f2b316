"""
Analyses that reproduce the paper: what the masks have in common, what the retained activations span, which neurons are
kept, what a model writes, where accuracy collapses.

INPUT
    results/{model}/masks/…, scores/…, calibration/…                    see rules/mask.smk, score.smk, calibrate.smk
OUTPUT
    results/{model}/analysis/overlap/{calib}/{first}/{second}.csv           IoU of two methods' masks (Table 4, Figure 3)
    results/{model}/analysis/spectrum/{calib}/{sparsity}.csv, .summary.csv  singular values, effective ranks (Figure 1)
    results/{model}/analysis/trap/{calib}/{sparsity}.…                      trap and spike neurons, token classes (Figure 2)
    results/{model}/analysis/cases/{variant}.json                           what a variant writes (Table 5)
    results/analysis/collapse.csv, accuracy.csv                             accuracy over sparsity, collapse points
"""


def analysis_settings(section, **extra):
    """A function of wildcards: a section's settings with the names that the results carry."""
    return lambda w: settings(section, model=w.model, calib=w.calib, sparsity=int(w.sparsity), **extra)


if CONFIG.overlap:

    def masks_of(wildcard):
        """Masks of the method that a wildcard names, at every sparsity."""
        path = names.MASK.replace("{method}", f"{{{wildcard}}}")
        return [path.replace("{sparsity}", str(sparsity)) for sparsity in CONFIG.overlap.sparsities]

    rule overlap:
        """Agreement of two methods' masks over the sparsities."""
        input:
            first=masks_of("first"),
            second=masks_of("second"),
            code=code("report", "paper/overlap"),
        output:
            names.OVERLAP,
        wildcard_constraints:
            first=METHOD,
            second=METHOD,
        params:
            settings=lambda w: settings(None, model=w.model, calib=w.calib, first=w.first, second=w.second),
            files=named,
        shell:
            report_by("paper/overlap")


if CONFIG.spectrum:

    rule spectrum:
        """Singular values of the retained activations at the analysed layer."""
        input:
            activations=names.ACTIVATIONS,
            scores=of_methods(names.SCORES),
            masks=of_methods(names.MASK),
            code=code("report", "paper/spectrum"),
        output:
            spectrum=f"{names.SPECTRUM}.csv",
            summary=f"{names.SPECTRUM}.summary.csv",
        threads: threads_of
        resources:
            mem_mb=memory_mb,
        params:
            settings=analysis_settings(CONFIG.spectrum, **catalogue.statistical(CONFIG, "methods", "seed")),
            files=named,
        shell:
            report_by("paper/spectrum --threads {threads}")


if CONFIG.trap:

    rule trap:
        """Neurons that are active without gradient, or the reverse; which are kept; what they react to."""
        input:
            statistics=names.STATISTICS,
            token_classes=names.TOKEN_CLASSES,
            masks=of_methods(names.MASK),
            code=code("report", "paper/trap"),
        output:
            neurons=f"{names.TRAP}.neurons.parquet",
            regions=f"{names.TRAP}.regions.csv",
            classes=f"{names.TRAP}.classes.csv",
        resources:
            mem_mb=memory_mb,
        params:
            settings=analysis_settings(CONFIG.trap, **catalogue.statistical(CONFIG, "methods", "confidence", "layer")),
            files=named,
        shell:
            report_by("paper/trap")


if CONFIG.cases:

    def cases_settings(wildcards):
        prompt, dtype = CONFIG.datasets[CONFIG.cases.dataset].prompt, CONFIG.models[wildcards.model].dtype
        return settings(CONFIG.cases, exclude=["dataset", "split", "excerpt"], prompt=prompt, dtype=dtype)

    rule cases:
        """What one variant generates for a few questions."""
        input:
            unpack(parts_of),
            data=names.DATA.format(dataset=CONFIG.cases.dataset, split=CONFIG.cases.split),
            code=lambda w: code("report", "paper/cases", *parts_code(w)),
        output:
            names.CASES,
        wildcard_constraints:
            variant=rf"dense|{PRUNED}",
        params:
            settings=cases_settings,
            files=lambda w, input: [
                *(f"--file={name}={value}" for name, value in parts_given(w).items()),
                f"--file=data={input.data}",
            ],
        shell:
            report_by("paper/cases", on_gpu)


if CONFIG.collapse:

    rule collapse:
        """Accuracy over sparsity, and where it has fallen halfway to chance."""
        input:
            samples=catalogue.samples(
                CONFIG, [names.DENSE, *catalogue.grid(CONFIG, CONFIG.collapse.sparsities)], CONFIG.collapse.task
            ),
            code=code("report", "paper/collapse"),
        output:
            collapse=PLACES.collapse,
            accuracy=PLACES.accuracy,
        resources:
            mem_mb=grown(2000),
        params:
            settings=settings(None, **paper.collapse_settings(CONFIG)),
            files=lambda w: f"--file=samples={names.SAMPLES}",
        shell:
            report_by("paper/collapse")
