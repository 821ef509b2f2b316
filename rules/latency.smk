"""
How fast models are, measured in turn in one process that takes all cores for itself: dense and compact shapes with random weights
(`latency`), the very models of the tables that `tradeoff` names (`speed`), and what allocations keep to (`latency_table`).

INPUT
    what evaluation loads of every model of a table                 rules/evaluate.smk: manifests, weights, masks, adapters
    results/{model}/base/manifest.json                              the dense model's shape (or one from the config)
    results/{model}/masks/{variant}.parquet                         widths of pruned models
OUTPUT
    results/latency/{shape}.csv                                     one shape
    results/analysis/speed/{model}.csv                              one model's variants
    results/{model}/latency_table.parquet                           structure, units, flops, prefill, decode
"""

from types import SimpleNamespace

ALL_CORES = workflow.resource_settings.cores or 4  # workflow.cores is an error where --cores is not given (--report)

if CONFIG.latency:

    def latency_variants(wildcards):
        latency = CONFIG.latency
        if wildcards.shape in latency.shapes:
            return []
        return [Variant(CALIB, method, sparsity) for method, sparsity in product(latency.methods, latency.sparsities)]

    def latency_architecture(wildcards):
        return [] if wildcards.shape in CONFIG.latency.shapes else names.BASE.format(model=wildcards.shape)

    def latency_masks(wildcards):
        own = {"model": wildcards.shape, "calib": CALIB}
        return [names.MASK.format(method=v.method, sparsity=v.sparsity, **own) for v in latency_variants(wildcards)]

    def latency_files(wildcards, input):
        """Command-line options: the dense model's config.json, and the pruned models' masks."""
        base = [f"--architecture={Path(input.architecture).parent}/config.json"] if input.architecture else []
        pairs = zip(latency_variants(wildcards), input.masks, strict=True)
        return [*base, *(f"--mask={variant}={path}" for variant, path in pairs)]

    def latency_settings(wildcards):
        return settings(
            CONFIG.latency,
            exclude=["shapes", "methods", "gpus", "memory_gb"],
            shape=wildcards.shape,
            changes=CONFIG.latency.shapes.get(wildcards.shape, {}),
            padded=[str(v) for v in latency_variants(wildcards) if CONFIG.method(v.method).export == "pad"],
            device="cuda" if CONFIG.latency.gpus else "cpu",
            **catalogue.statistical(CONFIG, "confidence", "resamples", "seed"),
        )

    rule latency:
        """Prefill and decoding of one shape and its compact forms."""
        input:
            architecture=latency_architecture,
            masks=latency_masks,
            code=code("latency"),
            launch=LAUNCH,
        output:
            names.LATENCY,
        log:
            log_of(names.LATENCY),
        benchmark:
            benchmark_of(names.LATENCY)
        wildcard_constraints:
            shape=one_of(catalogue.latency_shapes(CONFIG)),
        conda:
            "../envs/gpu.yaml"
        threads: ALL_CORES
        resources:
            gpu=CONFIG.latency.gpus,
            mem_mb=grown(CONFIG.latency.memory_gb * 1000),
        params:
            settings=latency_settings,
            files=latency_files,
        shell:
            "python {input.launch:q} --gpus {resources.gpu} -- "
            "python {input.code[0]:q} --settings {params.settings:q} {params.files:q} --output {output:q} --threads {threads} "
            "> {log:q} 2>&1"


rule latency_table:
    """What a model costs with so many neurons, or key-value groups, in every layer."""
    input:
        model=names.BASE,
        code=code("latency_table"),
        launch=LAUNCH,
    output:
        names.LATENCY_TABLE,
    log:
        log_of(names.LATENCY_TABLE),
    benchmark:
        benchmark_of(names.LATENCY_TABLE)
    conda:
        "../envs/gpu.yaml"
    threads: ALL_CORES
    resources:
        gpu=gpus,
        mem_mb=memory_mb,
    params:
        settings=lambda w: settings(
            CONFIG.latency_table,
            dtype=CONFIG.models[w.model].dtype,
            device="cuda" if gpus(w) else "cpu",
            **catalogue.statistical(CONFIG, "seed"),
        ),
        model=subpath(input.model, parent=True),
    shell:
        "python {input.launch:q} --gpus {resources.gpu} -- "
        "python {input.code[0]:q} --settings {params.settings:q} --model {params.model:q} --output {output:q} "
        "--threads {threads} > {log:q} 2>&1"


TIMED = catalogue.timed(CONFIG)  # model -> its variants


def timed_variants(wildcards):
    """As rules/evaluate.smk's functions take them."""
    return [SimpleNamespace(model=wildcards.model, variant=str(v)) for v in TIMED[wildcards.model]]


def timed_parts(wildcards):
    """The files of all of them."""
    found = {}
    for variant in timed_variants(wildcards):
        for part, files in parts_of(variant).items():
            found.setdefault(part, []).extend([files] if isinstance(files, str) else files)
    return {part: list(dict.fromkeys(files)) for part, files in found.items()}


def timed_options(wildcards):
    """The same on a command line: a JSON object a variant."""
    options = []
    for variant in timed_variants(wildcards):
        parts = dict(option.removeprefix("--").split("=", 1) for option in parts_options(variant))
        options.append(f"--variant={json.dumps({'variant': variant.variant, **parts})}")
    return options


def timed_code(wildcards):
    return code("speed", *sorted({plugin for variant in timed_variants(wildcards) for plugin in parts_code(variant)}))


if TIMED:

    rule speed:
        """Prefill and decoding of one model's variants."""
        input:
            unpack(timed_parts),
            code=timed_code,
            launch=LAUNCH,
        output:
            PLACES.speed,
        log:
            log_of(PLACES.speed),
        benchmark:
            benchmark_of(PLACES.speed)
        wildcard_constraints:
            model=one_of(TIMED),
        conda:
            "../envs/gpu.yaml"
        threads: ALL_CORES
        resources:
            gpu=gpus,
            mem_mb=memory_mb,
        params:
            settings=lambda w: settings(
                CONFIG.tradeoff,
                exclude=["tables", "task"],
                model=w.model,
                dtype=CONFIG.models[w.model].dtype,
                **catalogue.statistical(CONFIG, "confidence", "resamples", "seed"),
            ),
            variants=timed_options,
        shell:
            "python {input.launch:q} --gpus {resources.gpu} -- "
            "python {input.code[0]:q} --settings {params.settings:q} {params.variants:q} --output {output:q} "
            "--threads {threads} > {log:q} 2>&1"
