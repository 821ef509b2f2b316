"""
Refits: weights of one pruned variant, fitted layer by layer on what the pruned model itself sees. Only methods whose
compensation REQUIRES them have them (methods/compensation/).

INPUT
    results/{model}/base/manifest.json                                  the dense model
    results/{model}/masks/{calib}/{method}/{sparsity}.parquet
    results/data/{dataset}/{split}.parquet                              the calibration's text
OUTPUT
    results/{model}/refit/{calib}/{method}/{sparsity}/                  one file per layer; deleted after use unless kept
    results/{model}/refit/{calib}/{method}/{sparsity}.json              λ and errors of every layer, hashes of the files
"""

from pruning.methods import compensation


def refit_settings(wildcards):
    scheme = compensation_of(wildcards)
    own = {"scheme": scheme.removeprefix("ridge_")}
    if compensation.trains(scheme):
        own["training"] = CONFIG.method(wildcards.method).training.model_dump()
    return calibration_settings(wildcards, ["objectives", "gradient_checkpointing"], **own)


rule refit:
    """The refitted weights of one variant."""
    input:
        model=names.BASE,
        mask=shared(names.MASK),
        data=calibration_data,
        code=lambda w: code("measure", "methods/refit", *plugins(w)),
    output:
        manifest=f"{names.REFIT}.json",
        layers=kept_or_temp(directory(names.REFIT), CONFIG.storage.second_moments),
    priority: 1  # a long line of jobs waits for it
    params:
        settings=refit_settings,
        model=subpath(input.model, parent=True),
    shell:
        on_gpu(
            "--what methods/refit --model {params.model:q} --data {input.data:q} --evidence mask={input.mask:q} "
            "--output {output.manifest:q} --output {output.layers:q}"
        )
