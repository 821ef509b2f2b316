"""
Which tokens stay, of methods that cut the vocabulary (`vocabulary` of a method).

INPUT
    results/{model}/base/manifest.json                          the dense model's tokenizer
    results/data/{dataset}/{split}.parquet                      calibration text, all of it, or
    results/{model}/answers/{task}.parquet                      the model's own answers
OUTPUT
    results/{model}/vocabulary/{calib}/{method}.parquet         token, text, why, count
"""


rule vocabulary:
    """The tokens that one method keeps."""
    input:
        model=names.BASE,
        data=calibration_data,
        code=code("vocabulary"),
    output:
        names.VOCABULARY,
    params:
        settings=lambda w: settings(
            None, vocabulary=CONFIG.method(w.method).vocabulary, **text_format(CONFIG.calibrations[w.calib])
        ),
        model=subpath(input.model, parent=True),
    shell:
        on_cpu("--model {params.model:q} --data {input.data:q} --output {output:q}")
