"""
Latency: dense and compact shapes with random weights, measured in turn in one process. Takes all cores for itself.

INPUT
    results/{model}/base/manifest.json                              the dense model's shape (or one from the config)
    results/{model}/compact/{variant}/manifest.json                 widths of compact models
OUTPUT
    results/latency/{shape}.csv                                     one shape
    results/latency.csv, .md, .tex                                  all of them
"""

if CONFIG.latency:

    rule latency:
        """Prefill and decoding of one shape and its compact forms."""
        input:
            architecture=latency_architecture,
            manifests=latency_manifests,
            code=code("latency"),
        output:
            "results/latency/{shape}.csv",
        log:
            "results/logs/latency/{shape}.log",
        benchmark:
            "results/benchmarks/latency/{shape}.tsv"
        wildcard_constraints:
            shape=one_of(latency_shapes()),
        conda:
            "../envs/gpu.yaml"
        threads: ALL_CORES
        resources:
            gpu=CONFIG.latency.gpus,
            mem_mb=CONFIG.latency.memory_gb * 1000,
        params:
            settings=latency_settings,
            files=latency_files,
        shell:
            "python scripts/launch.py --gpus {resources.gpu} -- "
            "python scripts/latency.py --settings {params.settings:q} {params.files:q} --output {output:q} --threads {threads} "
            "> {log:q} 2>&1"

    rule latency_table:
        """The latencies of all shapes."""
        input:
            shapes=expand("results/latency/{shape}.csv", shape=latency_shapes()),
            code=code("latency_table"),
        output:
            csv="results/latency.csv",
            md="results/latency.md",
            tex="results/latency.tex",
        log:
            "results/logs/latency.log",
        benchmark:
            "results/benchmarks/latency.tsv"
        conda:
            "../envs/cpu.yaml"
        resources:
            mem_mb=1000,
        params:
            shapes=lambda w, input: [f"--shape={path}" for path in input.shapes],
        shell:
            "python scripts/latency_table.py {params.shapes:q} --output-csv {output.csv:q} --output-md {output.md:q} "
            "--output-tex {output.tex:q} > {log:q} 2>&1"
