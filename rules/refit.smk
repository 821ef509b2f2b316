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


def scheme_of(wildcards):
    return CONFIG.method(wildcards.method).compensate.removeprefix("ridge_")


rule refit:
    """The refitted weights of one variant."""
    input:
        model=names.BASE,
        mask=names.MASK,
        data=calibration_data,
        code=lambda w: code("refit", *plugins(w)),
    output:
        manifest=f"{names.REFIT}.json",
        layers=kept_or_temp(directory(names.REFIT), CONFIG.storage.second_moments),
    params:
        settings=lambda w: calibration_settings(w, ["objectives", "gradient_checkpointing"], scheme=scheme_of(w)),
        model=subpath(input.model, parent=True),
    shell:
        on_gpu(
            "--model {params.model:q} --mask {input.mask:q} --data {input.data:q} --output {output.layers:q} "
            "--manifest {output.manifest:q}"
        )
