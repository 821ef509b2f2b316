"""
Analyses: what the masks have in common, what the retained activations span, which neurons are kept, what is said.

INPUT
    results/{model}/masks/…, scores/…, calibration/…                    see rules/mask.smk, score.smk, calibrate.smk
OUTPUT
    results/{model}/analysis/overlap/{calib}/{first}/{second}.csv           IoU of two methods' masks (Table 4, Figure 3)
    results/{model}/analysis/spectrum/{calib}/{sparsity}.csv, .summary.csv  singular values, effective ranks (Figure 1)
    results/{model}/analysis/trap/{calib}/{sparsity}.…                      trap and spike neurons, token classes (Figure 2)
    results/{model}/analysis/cases/{variant}.json                           what a variant writes (Table 5)
    results/collapse.csv, accuracy.csv                                      accuracy over sparsity, collapse points
    results/widths.csv                                                      neurons that each layer keeps
"""

ANALYSIS = "results/{model}/analysis"


if CONFIG.overlap:

    rule overlap:
        """Agreement of two methods' masks over the sparsities."""
        input:
            first=masks_of("first", CONFIG.overlap.sparsities),
            second=masks_of("second", CONFIG.overlap.sparsities),
            code=code("overlap"),
        output:
            f"{ANALYSIS}/overlap/{{calib}}/{{first}}/{{second}}.csv",
        log:
            "results/logs/{model}/analysis/overlap/{calib}/{first}/{second}.log",
        benchmark:
            "results/benchmarks/{model}/analysis/overlap/{calib}/{first}/{second}.tsv"
        wildcard_constraints:
            first=one_of(METHODS),
            second=one_of(METHODS),
        conda:
            "../envs/cpu.yaml"
        resources:
            mem_mb=1000,
        params:
            settings=lambda w: settings(None, model=w.model, calib=w.calib, first=w.first, second=w.second),
            first=lambda w, input: [f"--first={path}" for path in input.first],
            second=lambda w, input: [f"--second={path}" for path in input.second],
        shell:
            "python scripts/overlap.py --settings {params.settings:q} {params.first:q} {params.second:q} "
            "--output {output:q} > {log:q} 2>&1"


if CONFIG.spectrum:

    rule spectrum:
        """Singular values of the retained activations at the analysed layer."""
        input:
            activations=f"{CALIBRATION}/activations.parquet",
            scores=of_methods("results/{model}/scores/{calib}/{method}.parquet"),
            masks=of_methods("results/{model}/masks/{calib}/{method}/{sparsity}.parquet"),
            code=code("spectrum"),
        output:
            spectrum=f"{ANALYSIS}/spectrum/{{calib}}/{{sparsity}}.csv",
            summary=f"{ANALYSIS}/spectrum/{{calib}}/{{sparsity}}.summary.csv",
        log:
            "results/logs/{model}/analysis/spectrum/{calib}/{sparsity}.log",
        benchmark:
            "results/benchmarks/{model}/analysis/spectrum/{calib}/{sparsity}.tsv"
        conda:
            "../envs/cpu.yaml"
        threads: threads_of
        resources:
            mem_mb=memory_mb,
        params:
            settings=analysis_settings(CONFIG.spectrum, seed=EXPERIMENT.seed),
            scores=lambda w: named("scores", w, "results/{model}/scores/{calib}/{method}.parquet"),
            masks=lambda w: named("masks", w, "results/{model}/masks/{calib}/{method}/{sparsity}.parquet"),
        shell:
            "python scripts/spectrum.py --settings {params.settings:q} --activations {input.activations:q} "
            "{params.scores:q} {params.masks:q} --output-spectrum {output.spectrum:q} --output-summary {output.summary:q} "
            "--threads {threads} > {log:q} 2>&1"


if CONFIG.trap:

    rule trap:
        """Neurons that are active without gradient, or the reverse; which are kept; what they react to."""
        input:
            statistics=f"{CALIBRATION}/statistics.parquet",
            token_classes=f"{CALIBRATION}/token_classes.parquet",
            masks=of_methods("results/{model}/masks/{calib}/{method}/{sparsity}.parquet"),
            code=code("trap"),
        output:
            neurons=f"{ANALYSIS}/trap/{{calib}}/{{sparsity}}.neurons.parquet",
            regions=f"{ANALYSIS}/trap/{{calib}}/{{sparsity}}.regions.csv",
            classes=f"{ANALYSIS}/trap/{{calib}}/{{sparsity}}.classes.csv",
        log:
            "results/logs/{model}/analysis/trap/{calib}/{sparsity}.log",
        benchmark:
            "results/benchmarks/{model}/analysis/trap/{calib}/{sparsity}.tsv"
        conda:
            "../envs/cpu.yaml"
        resources:
            mem_mb=memory_mb,
        params:
            settings=lambda w: trap_settings(w),
            masks=lambda w: named("masks", w, "results/{model}/masks/{calib}/{method}/{sparsity}.parquet"),
        shell:
            "python scripts/trap.py --settings {params.settings:q} --statistics {input.statistics:q} "
            "--token-classes {input.token_classes:q} {params.masks:q} --output-neurons {output.neurons:q} "
            "--output-regions {output.regions:q} --output-classes {output.classes:q} > {log:q} 2>&1"


if CONFIG.cases:

    rule cases:
        """What one variant writes when asked a few questions."""
        input:
            manifest=manifest_of,
            weights=weights_of,
            adapter=adapter_files,
            data=f"results/data/{CONFIG.cases.dataset}/{CONFIG.cases.split}.parquet",
            code=code("cases"),
        output:
            f"{ANALYSIS}/cases/{{variant}}.json",
        log:
            "results/logs/{model}/analysis/cases/{variant}.log",
        benchmark:
            "results/benchmarks/{model}/analysis/cases/{variant}.tsv"
        wildcard_constraints:
            variant=VARIANT,
        conda:
            "../envs/gpu.yaml"
        threads: threads_of
        resources:
            gpu=gpus,
            mem_mb=memory_mb,
        params:
            settings=cases_settings,
            model=model_of,
            adapter=adapter_option,
        shell:
            "python scripts/launch.py --gpus {resources.gpu} -- "
            "python scripts/cases.py --settings {params.settings:q} --model {params.model:q} {params.adapter} "
            "--manifest {input.manifest:q} --data {input.data:q} --output {output:q} --threads {threads} > {log:q} 2>&1"


if CONFIG.collapse:

    rule collapse:
        """Accuracy over sparsity, and where it has fallen halfway to chance."""
        input:
            samples=expand(
                "results/{model}/eval/{variant}/{task}.samples.parquet",
                model=EXPERIMENT.models,
                variant=["dense", *grid_variants(CONFIG.collapse.sparsities)],
                task=CONFIG.collapse.task,
            ),
            code=code("collapse"),
        output:
            collapse="results/collapse.csv",
            md="results/collapse.md",
            tex="results/collapse.tex",
            accuracy="results/accuracy.csv",
        log:
            "results/logs/collapse.log",
        benchmark:
            "results/benchmarks/collapse.tsv"
        conda:
            "../envs/cpu.yaml"
        resources:
            mem_mb=2000,
        params:
            settings=collapse_settings(),
        shell:
            "python scripts/collapse.py --settings {params.settings:q} --output-collapse {output.collapse:q} "
            "--output-md {output.md:q} --output-tex {output.tex:q} --output-accuracy {output.accuracy:q} > {log:q} 2>&1"


rule widths:
    """Neurons that each layer keeps, by method."""
    input:
        masks=expand(
            "results/{model}/masks/{variant}.parquet",
            model=EXPERIMENT.models,
            variant=grid_variants(curve_sparsities()),
        ),
        code=code("widths"),
    output:
        "results/widths.csv",
    log:
        "results/logs/widths.log",
    benchmark:
        "results/benchmarks/widths.tsv"
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=1000,
    params:
        settings=settings(
            None, models=EXPERIMENT.models, calib=CALIB, methods=EXPERIMENT.methods, sparsities=curve_sparsities()
        ),
    shell:
        "python scripts/widths.py --settings {params.settings:q} --output {output:q} > {log:q} 2>&1"
