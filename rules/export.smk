"""
Models to take away: one folder that stock tools load, with a card that says what it is and what was measured of it.

INPUT
    results/{model}/base/manifest.json                              the dense model
    results/{model}/masks/{calib}/{method}/{sparsity}.parquet
    results/{model}/compact/{calib}/{method}/{sparsity}/            the pruned model
    results/{model}/recovered/{variant}/                            its LoRA adapter, where the variant names a recovery; it is merged
    results/{model}/eval/{variant}/, eval/dense/                    what is there when the card is written
OUTPUT
    results/{model}/export/{variant}/model/                         weights, tokenizer, README.md, manifest.json with hashes and checks
    results/{model}/export/{variant}/gguf/{type}.gguf               the same for llama.cpp, in one file; .md, .json: its card and manifest;
                                                                    .Modelfile: for Ollama; of variant `dense` too, to be compared with
"""


def exported(wildcards):
    """The files that an exported model is made of."""
    variant, model = variant_of(wildcards), wildcards.model
    return {
        "base": names.BASE.format(model=model),
        "mask": names.MASK.format(model=model, **as_cut(vars(variant))),
        "manifest": variant.manifest(model),
        "weights": ancient(variant.weights(model)),
        "adapter": variant.adapter_files(model),
        "measured": measured_of(model, variant),
    }


def measured_of(model, variant):
    """Results that are there: an export asks for none."""
    found = []
    for each, task in product((names.DENSE, variant), CONFIG.tasks):
        files = [each.samples(model, task), each.result(model, task)]
        found += files if all(map(os.path.exists, files)) else []
    return found


def export_name(wildcards):
    """What an export is called."""
    return "-".join(str(part) for part in (wildcards.model, *vars(variant_of(wildcards)).values()) if part)


def export_settings(wildcards):
    variant, model = variant_of(wildcards), CONFIG.models[wildcards.model]
    tasks = {name: catalogue.described(CONFIG, names.Column(name)) for name in CONFIG.tasks}
    return settings(
        None,
        name=export_name(wildcards),
        dtype=model.dtype,
        source=model.source.model_dump(),
        note=model.note,
        variant=vars(variant),
        method=CONFIG.method(variant.method).model_dump(),
        calibration=CONFIG.calibrations[variant.calib].model_dump(),
        tuning=CONFIG.tunings[variant.tuning].model_dump() if variant.tuning else None,
        tasks=tasks,
        **catalogue.statistical(CONFIG, "confidence", "resamples", "seed"),
    )


rule export:
    """One folder that stock tools load."""
    input:
        unpack(exported),
        code=code("export"),
    output:
        directory(names.EXPORT),
    wildcard_constraints:
        variant=PRUNED,
    params:
        settings=export_settings,
        adapter=lambda w: [f"--adapter={folder}"] if (folder := variant_of(w).adapter(w.model)) else [],
        measured=lambda w, input: [f"--measured={path}" for path in input.measured],
    shell:
        on_gpu(
            "--model {input.weights:q} --manifest {input.manifest:q} --base {input.base:q} --mask "
            "{input.mask:q} {params.adapter:q} {params.measured:q} --output {output:q}"
        )


def gguf_source(wildcards):
    """The exported folder, or the dense model's manifest, if it can become such a file at all."""
    checked(gguf.check, wildcards.type)
    return (names.BASE if variant_of(wildcards) == names.DENSE else names.EXPORT).format(**wildcards)


def gguf_settings(wildcards):
    own, source = CONFIG.models[wildcards.model], CONFIG.models[wildcards.model].source
    repo = {"repo": source.repo, "revision": source.revision} if source.kind == "hub" else {}
    return settings(
        None, name=export_name(wildcards), variant=wildcards.variant, type=wildcards.type, dtype=own.dtype, **repo
    )


rule gguf:
    """One file for llama.cpp."""
    input:
        model=gguf_source,
        code=code("to_gguf"),
    output:
        file=f"{names.GGUF}.gguf",
        others=[f"{names.GGUF}.{suffix}" for suffix in ("json", "md", "Modelfile")],
    wildcard_constraints:
        variant=rf"dense|{PRUNED}",
        type="[^/.]+",
    threads: threads_of
    resources:
        mem_mb=memory_mb,
    params:
        settings=gguf_settings,
        model=lambda w, input: str(Path(input.model).parent) if variant_of(w) == names.DENSE else input.model,
    shell:
        on_cpu("--model {params.model:q} --output {output.file:q} --threads {threads}")
