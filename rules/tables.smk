"""
Tables: tidy CSV, and the same to read in Markdown, LaTeX and HTML. `tables` in the config says which there are.

INPUT
    results/{model}/eval/…/{task}.samples.parquet           outcomes of every model, method, sparsity and task
    results/{model}/compact/…/manifest.json                 achieved sparsity and parameters
    resources/paper/…                                       the paper's numbers, and footnotes on them
OUTPUT
    results/{table}.csv, .md, .tex                          a table of `tables`; table4, table5, ablation, readings, costs
    results/leakage/{table}.csv                             test items found in the text that was calibrated or tuned on
    results/pages/{table}.html                              the table as a page of the report
"""


rule leakage:
    """Test items of a table that its calibration or tuning texts contain."""
    input:
        data=leakage_files,
        code=code("leakage"),
    output:
        "results/leakage/{table}.csv",
    log:
        "results/logs/leakage/{table}.log",
    benchmark:
        "results/benchmarks/leakage/{table}.tsv"
    wildcard_constraints:
        table=one_of(TABLES),
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=1000,
    params:
        settings=leakage_settings,
    shell:
        "python scripts/leakage.py --settings {params.settings:q} --output {output:q} > {log:q} 2>&1"


rule table:
    """What pruning leaves, with intervals and paired tests, beside the paper's numbers."""
    input:
        samples=table_samples,
        manifests=table_manifests,
        published=published_of,
        leakage="results/leakage/{table}.csv",
        code=code("table"),
    output:
        csv="results/{table}.csv",
        md="results/{table}.md",
        tex="results/{table}.tex",
    log:
        "results/logs/{table}.log",
    benchmark:
        "results/benchmarks/{table}.tsv"
    wildcard_constraints:
        table=one_of(TABLES),
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=2000,
    params:
        settings=table_settings,
    shell:
        "python scripts/table.py --settings {params.settings:q} --leakage {input.leakage:q} --output-csv {output.csv:q} "
        "--output-md {output.md:q} --output-tex {output.tex:q} > {log:q} 2>&1"


if CONFIG.overlap:

    rule table4:
        """Mask overlap over the sparsities, averaged over layers and at one, beside the paper's."""
        input:
            overlap=[file for pair in CONFIG.overlap.pairs for file in overlap_files(*pair)],
            published=["resources/paper/table4.csv", "resources/paper/notes.yaml"],
            code=code("table4"),
        output:
            csv="results/table4.csv",
            md="results/table4.md",
            tex="results/table4.tex",
        log:
            "results/logs/table4.log",
        benchmark:
            "results/benchmarks/table4.tsv"
        conda:
            "../envs/cpu.yaml"
        resources:
            mem_mb=1000,
        params:
            settings=table4_settings(),
            overlap=lambda w, input: [f"--overlap={path}" for path in input.overlap],
        shell:
            "python scripts/table4.py --settings {params.settings:q} {params.overlap:q} --published {input.published[0]:q} "
            "--notes {input.published[1]:q} --output-csv {output.csv:q} --output-md {output.md:q} "
            "--output-tex {output.tex:q} > {log:q} 2>&1"


if CONFIG.cases:

    rule table5:
        """What each method's model writes when asked the same questions."""
        input:
            cases=per_model_cases(),
            code=code("table5"),
        output:
            csv="results/table5.csv",
            md="results/table5.md",
            tex="results/table5.tex",
        log:
            "results/logs/table5.log",
        benchmark:
            "results/benchmarks/table5.tsv"
        conda:
            "../envs/cpu.yaml"
        resources:
            mem_mb=1000,
        params:
            settings=table5_settings,
            cases=case_options(),
        shell:
            "python scripts/table5.py --settings {params.settings:q} {params.cases:q} --output-csv {output.csv:q} "
            "--output-md {output.md:q} --output-tex {output.tex:q} > {log:q} 2>&1"


if CONFIG.ablation:

    rule ablation:
        """Every combination of RKU's choices."""
        input:
            samples=expand(
                "results/{model}/eval/{variant}/{task}.samples.parquet",
                model=EXPERIMENT.models,
                variant=["dense", *ablation_variants()],
                task=CONFIG.ablation.task,
            ),
            code=code("ablation"),
        output:
            csv="results/ablation.csv",
            md="results/ablation.md",
            tex="results/ablation.tex",
        log:
            "results/logs/ablation.log",
        benchmark:
            "results/benchmarks/ablation.tsv"
        conda:
            "../envs/cpu.yaml"
        resources:
            mem_mb=2000,
        params:
            settings=ablation_settings(),
        shell:
            "python scripts/ablation.py --settings {params.settings:q} --output-csv {output.csv:q} --output-md {output.md:q} "
            "--output-tex {output.tex:q} > {log:q} 2>&1"


if CONFIG.readings:

    rule readings:
        """Which way of computing the paper's methods fits the paper's numbers."""
        input:
            readings_files(),
            published=expand("resources/paper/table{number}.csv", number=[1, 4, 6, 7]),
            code=code("readings"),
        output:
            csv="results/readings.csv",
            md="results/readings.md",
            tex="results/readings.tex",
        log:
            "results/logs/readings.log",
        benchmark:
            "results/benchmarks/readings.tsv"
        conda:
            "../envs/cpu.yaml"
        resources:
            mem_mb=2000,
        params:
            settings=readings_settings(),
        shell:
            "python scripts/readings.py --settings {params.settings:q} --output-csv {output.csv:q} --output-md {output.md:q} "
            "--output-tex {output.tex:q} > {log:q} 2>&1"
