"""
Compact models: physically smaller, loadable. `storage.compact` says whether they are kept.

INPUT
    results/{model}/base/manifest.json                              the dense model
    results/{model}/masks/{calib}/{method}/{sparsity}.parquet
    results/{model}/calibration/{calib}/statistics.parquet,         what the method's compensation says it is fitted on
    …/second_moments.json, or                                       (REQUIRES; methods/requirements.py)
    results/{model}/refit/{calib}/{method}/{sparsity}.json
    results/data/{dataset}/{split}.parquet                          the calibration's text, whose tokens stay, where the method
                                                                    cuts the vocabulary
OUTPUT
    results/{model}/compact/{calib}/{method}/{sparsity}/model/              a Hugging Face model directory
    results/{model}/compact/{calib}/{method}/{sparsity}/manifest.json       widths, parameters, hashes of the model's files
"""


def compensation_of(wildcards):
    return CONFIG.method(wildcards.method).compensate


def plugins(wildcards):
    scheme = compensation_of(wildcards)
    return [] if scheme == "none" else [f"methods/compensation/{scheme}"]


def compact_threads(wildcards):
    """Cutting is reading and writing; only the linear algebra of ridge makes use of more cores."""
    return threads_of(wildcards) if compensation_of(wildcards) == "ridge" else 1


def compact_settings(wildcards):
    own = CONFIG.method(wildcards.method).model_dump(include={"compensate", "export", "vocabulary"})
    text = text_format(CONFIG.calibrations[wildcards.calib]) if "vocabulary" in own else {}
    return json.dumps(own | text)


rule compact:
    """A physically smaller model."""
    input:
        model=names.BASE,
        mask=shared(names.MASK),
        evidence=files_of("compact"),
        moments=matrices_of("compact"),
        data=lambda w: calibration_data(w) if CONFIG.method(w.method).vocabulary else [],
        code=lambda w: code("compact", *plugins(w)),
    output:
        manifest=f"{names.COMPACT}/manifest.json",
        weights=kept_or_temp(directory(f"{names.COMPACT}/model"), CONFIG.storage.compact),
    log:
        log_of(names.COMPACT),
    threads: compact_threads
    resources:
        mem_mb=memory_mb,
    params:
        settings=compact_settings,
        model=subpath(input.model, parent=True),
        evidence=lambda w, input: [f"--{key}={input[key]}" for key in ("evidence", "data") if input[key]],
    shell:
        on_cpu(
            "--model {params.model:q} --base {input.model:q} --mask {input.mask:q} {params.evidence:q} "
            "--output {output.weights:q} --manifest {output.manifest:q}"
        )
