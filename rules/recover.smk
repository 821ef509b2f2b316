"""
LoRA recovery of compact models, by one of `tunings` in the config; rules/evaluate.smk evaluates them.

INPUT
    results/{model}/compact/{calib}/{method}/{sparsity}/            the pruned model
    results/data/{dataset}/{split}.parquet                          tuning text, or
    results/{model}/answers/{task}.parquet                          the dense model's own answers, or
    results/{model}/answers/{calib}/{method}/{sparsity}/{task}.parquet      those of the pruned model
    results/{model}/base/manifest.json                              the dense model, only to distil from it; of a model
                                                                    pruned in rounds the first one
OUTPUT
    results/{model}/recovered/{calib}/{method}/{sparsity}/{tuning}/     PEFT adapter, training_log.csv, recovery.json
A killed training goes on from its last checkpoint, kept in a hidden file beside the output.
"""


def tuning_data(wildcards):
    tuning = CONFIG.tunings[wildcards.tuning]
    if tuning.answered_by == "pruned":
        return names.ANSWERS_OF_PRUNED.format(**wildcards, task=tuning.answers)
    return text_file(tuning, wildcards.model)


def tuning_settings(wildcards):
    tuning = CONFIG.tunings[wildcards.tuning]
    whose = {key: wildcards[key] for key in ("model", "calib", "method", "tuning")}
    whose["sparsity"] = int(wildcards.sparsity) / 100
    own = {"dtype": CONFIG.models[wildcards.model].dtype, **text_format(tuning)}
    return settings(tuning, exclude=[*WHERE, "note", "objective"], **own, names=whose)


def teacher_of(wildcards):
    """The dense model, where the tuning distils it: what no round has pruned yet."""
    distils = CONFIG.tunings[wildcards.tuning].objective == "distillation"
    return [names.BASE.format(model=CONFIG.lineage(wildcards.model)[-1])] if distils else []


rule recover:
    """A LoRA adapter for a compact model."""
    input:
        manifest=f"{names.COMPACT}/manifest.json",
        weights=ancient(f"{names.COMPACT}/model"),
        data=tuning_data,
        teacher=teacher_of,
        code=code("recover"),
    output:
        [f"{names.RECOVERED}/{name}" for name in (*names.ADAPTER, "training_log.csv", "recovery.json")],
    log:
        log_of(names.RECOVERED),
    wildcard_constraints:
        tuning=one_of(CONFIG.tunings),
    params:
        settings=tuning_settings,
        output=subpath(output[0], parent=True),
        teacher=lambda w: [f"--teacher={Path(path).parent}" for path in teacher_of(w)],
    shell:
        on_gpu(
            "--model {input.weights:q} --manifest {input.manifest:q} --data {input.data:q} --output "
            "{params.output:q} {params.teacher:q}"
        )
