"""
Tables: tidy CSV, and the paper's layout in Markdown and LaTeX.

INPUT
    results/{model}/eval/…/{task}.samples.parquet           outcomes of every model, method, sparsity and task of `table1`
    results/{model}/compact/…/manifest.json                 achieved sparsity and parameters
    resources/paper/table1.csv                              the paper's numbers
OUTPUT
    results/table1.csv, table1.md, table1.tex
"""


rule table1:
    """Accuracy after pruning, with intervals and paired tests (the paper's Table 1)."""
    input:
        samples=expand(
            "results/{model}/eval/{variant}/{task}.samples.parquet",
            model=CONFIG.table1.models,
            variant=["dense", *table1_variants()],
            task=CONFIG.table1.tasks,
        ),
        manifests=expand(
            "results/{model}/compact/{variant}/manifest.json", model=CONFIG.table1.models, variant=table1_variants()
        ),
        published="resources/paper/table1.csv",
        code=code("table1"),
    output:
        csv="results/table1.csv",
        md="results/table1.md",
        tex="results/table1.tex",
    log:
        "results/logs/table1.log",
    benchmark:
        "results/benchmarks/table1.tsv"
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=1000,
    params:
        settings=table1_settings(),
    shell:
        "python scripts/table1.py --settings {params.settings:q} --output-csv {output.csv:q} "
        "--output-md {output.md:q} --output-tex {output.tex:q} > {log:q} 2>&1"
