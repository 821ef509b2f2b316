"""
One calibration pass collects every statistic of every method; shards are separate jobs that merge exactly.

INPUT
    results/{model}/base/manifest.json                          the dense model
    results/data/{dataset}/{split}.parquet                      calibration text, or
    results/{model}/answers/{task}.parquet                      the model's own answers
OUTPUT
    results/{model}/calibration/{calib}/statistics.parquet      one row a neuron (scripts/pruning/calibration/columns.py)
    results/{model}/calibration/{calib}/layers.parquet          one row a layer
    results/{model}/calibration/{calib}/token_classes.parquet   one row a neuron and token class (digits, operators, …)
    results/{model}/calibration/{calib}/activations.parquet     sampled tokens x neurons of the analysed layer
    results/{model}/calibration/{calib}/second_moments/         sum of a a^T of down_proj's inputs, for ridge compensation
    results/{model}/calibration/{calib}/output_gradients/       sum of g g^T at every FFN's output, for the score obs
    results/{model}/calibration/{calib}/rounds.parquet          one row a neuron, for the score rounds
    results/{model}/calibration/{calib}/parameter_taylor.parquet    one row a neuron, for the score parameter_taylor
    results/{model}/calibration/{calib}/attention.parquet       one row a channel, for the allocation joint; for joint by
                                                                the scores obs, leverage and parameter_taylor instead:
    results/{model}/calibration/{calib}/attention_second_moments/   sum of a a^T of the inputs of attention's output projection
    results/{model}/calibration/{calib}/attention_output_gradients/ sum of g g^T at its output
    results/{model}/calibration/{calib}/attention_parameter_taylor.parquet      one row a key-value group
"""

CALIBRATION_FILES = ("statistics", "layers")


def calibration_data(wildcards):
    return text_file(CONFIG.calibrations[wildcards.calib], wildcards.model)


def calibration_settings(wildcards, exclude=(), **extra):
    calibration = CONFIG.calibrations[wildcards.calib]
    return settings(
        calibration,
        exclude=["shards", *WHERE, "rounds", "probed", *exclude],
        dtype=CONFIG.models[wildcards.model].dtype,
        **text_format(calibration),
        **extra,
    )


def observation_settings(wildcards):
    spectrum, trap = CONFIG.spectrum or Spectrum(), CONFIG.trap or Trap()
    own = {
        "tokens": spectrum.tokens,
        "layer": EXPERIMENT.layer,
        "objectives": list(dict.fromkeys([trap.objective, "ce"])),
    }
    return calibration_settings(wildcards, ["objectives"], **own)


def shards_of(wildcards):
    shards = CONFIG.calibrations[wildcards.calib].shards
    return [names.SHARD.format(**wildcards, shard=shard, shards=shards) for shard in range(shards)]


rule calibrate_shard:
    """Statistics of one shard's micro-batches."""
    input:
        model=names.BASE,
        data=calibration_data,
        code=code("calibrate"),
    output:
        [f"{names.SHARD}/{name}.parquet" for name in CALIBRATION_FILES],
    log:
        log_of(names.SHARD),
    params:
        settings=lambda w: calibration_settings(w, shards=int(w.shards)),
        model=subpath(input.model, parent=True),
        output=subpath(output[0], parent=True),
    shell:
        on_gpu("--model {params.model:q} --data {input.data:q} --shard {wildcards.shard} --output {params.output:q}")


rule merge_calibration:
    """The calibration's statistics over all shards."""
    input:
        shards=lambda w: [f"{shard}/{name}.parquet" for shard in shards_of(w) for name in CALIBRATION_FILES],
        code=code("merge_calibration"),
    output:
        [f"{names.CALIBRATION}/{name}.parquet" for name in CALIBRATION_FILES],
    resources:
        mem_mb=memory_mb,
    params:
        settings=lambda w: settings(CONFIG.calibrations[w.calib], exclude=["rounds", "probed", "answers", "completion"]),
        shards=lambda w: [f"--shard={shard}" for shard in shards_of(w)],
        output=subpath(output[0], parent=True),
    shell:
        on_cpu("{params.shards:q} --output {params.output:q}")


rule observe:
    """What figures show of single tokens."""
    input:
        model=names.BASE,
        data=calibration_data,
        code=code("observe"),
    output:
        activations=names.ACTIVATIONS,
        classes=names.TOKEN_CLASSES,
    params:
        settings=observation_settings,
        model=subpath(input.model, parent=True),
    shell:
        on_gpu(
            "--model {params.model:q} --data {input.data:q} --output-activations {output.activations:q} "
            "--output-classes {output.classes:q}"
        )


rule attention_statistics:
    """What the calibration measures of neurons, of the channels that attention hands on."""
    input:
        model=names.BASE,
        data=calibration_data,
        code=code("attention_statistics"),
    output:
        names.ATTENTION,
    params:
        settings=calibration_settings,
        model=subpath(input.model, parent=True),
    shell:
        on_gpu("--model {params.model:q} --data {input.data:q} --output {output:q}")


rule second_moments:
    """Second moments of every layer's down_proj inputs, a layer at a time; deleted after use unless kept."""
    input:
        model=names.BASE,
        data=calibration_data,
        code=code("second_moments"),
    output:
        manifest=f"{names.SECOND_MOMENTS}.json",
        layers=kept_or_temp(directory(names.SECOND_MOMENTS), CONFIG.storage.second_moments),
    params:
        settings=lambda w: calibration_settings(w, ["objectives", "gradient_checkpointing"]),
        model=subpath(input.model, parent=True),
    shell:
        on_gpu(
            "--model {params.model:q} --data {input.data:q} --output {output.layers:q} --manifest "
            "{output.manifest:q}"
        )


use rule second_moments as attention_second_moments with:
    output:
        manifest=f"{names.ATTENTION_SECOND_MOMENTS}.json",
        layers=kept_or_temp(directory(names.ATTENTION_SECOND_MOMENTS), CONFIG.storage.second_moments),
    params:
        settings=lambda w: calibration_settings(w, ["objectives", "gradient_checkpointing"], structure="kv_groups"),


rule output_gradients:
    """Second moments of the loss gradient at every FFN's output, to labels drawn from the model."""
    input:
        model=names.BASE,
        data=calibration_data,
        code=code("output_gradients"),
    output:
        manifest=f"{names.OUTPUT_GRADIENTS}.json",
        layers=directory(names.OUTPUT_GRADIENTS),
    params:
        settings=lambda w: calibration_settings(w, ["objectives"]),
        model=subpath(input.model, parent=True),
    shell:
        on_gpu(
            "--model {params.model:q} --data {input.data:q} --output {output.layers:q} --manifest "
            "{output.manifest:q}"
        )


use rule output_gradients as attention_output_gradients with:
    output:
        manifest=f"{names.ATTENTION_OUTPUT_GRADIENTS}.json",
        layers=directory(names.ATTENTION_OUTPUT_GRADIENTS),
    params:
        settings=lambda w: calibration_settings(w, ["objectives"], structure="kv_groups"),


rule rounds:
    """The order in which neurons leave, measured again after each round."""
    input:
        model=names.BASE,
        data=calibration_data,
        code=code("rounds"),
    output:
        names.ROUNDS,
    params:
        settings=lambda w: calibration_settings(w, ["objectives"], rounds=CONFIG.calibrations[w.calib].rounds),
        model=subpath(input.model, parent=True),
    shell:
        on_gpu("--model {params.model:q} --data {input.data:q} --output {output:q}")


rule parameter_gradients:
    """Gradients of all FFN weights over the whole set, summed, times the weights: one number a neuron."""
    input:
        model=names.BASE,
        data=calibration_data,
        code=code("parameter_gradients"),
    output:
        names.PARAMETER_TAYLOR,
    params:
        settings=lambda w: calibration_settings(w, ["objectives"]),
        model=subpath(input.model, parent=True),
    shell:
        on_gpu("--model {params.model:q} --data {input.data:q} --output {output:q} --memory-mb {resources.mem_mb}")


use rule parameter_gradients as attention_parameter_gradients with:
    output:
        names.ATTENTION_PARAMETER_TAYLOR,
    params:
        settings=lambda w: calibration_settings(w, ["objectives"], structure="kv_groups"),
