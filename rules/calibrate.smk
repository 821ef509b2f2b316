"""
One calibration pass collects every statistic of every method; shards are separate jobs that merge exactly.

INPUT
    results/{model}/base/manifest.json                          the dense model
    results/data/{dataset}/{split}.parquet                      calibration text, or
    results/{model}/answers/{task}.parquet                      the model's own answers
OUTPUT
    results/{model}/calibration/{calib}/statistics.parquet      one row per neuron (scripts/pruning/calibration/columns.py)
    results/{model}/calibration/{calib}/layers.parquet          one row per layer
    results/{model}/calibration/{calib}/token_classes.parquet   one row per neuron and token class (digits, operators, …)
    results/{model}/calibration/{calib}/activations.parquet     sampled tokens x neurons of the analysed layer
    results/{model}/calibration/{calib}/second_moments/         sum of a a^T of down_proj's inputs, for ridge compensation
    results/{model}/calibration/{calib}/output_gradients/       sum of g g^T at every FFN's output, for the score obs
    results/{model}/calibration/{calib}/rounds.parquet          one row per neuron, for the score rounds
    results/{model}/calibration/{calib}/parameter_taylor.parquet    one row per neuron, for the score parameter_taylor
    results/{model}/calibration/{calib}/attention.parquet       one row per channel, for the allocation joint; for joint by
                                                                the scores obs, leverage and parameter_taylor instead:
    results/{model}/calibration/{calib}/attention_second_moments/   sum of a a^T of the inputs of attention's output projection
    results/{model}/calibration/{calib}/attention_output_gradients/ sum of g g^T at its output
    results/{model}/calibration/{calib}/attention_parameter_taylor.parquet      one row per key-value group
"""

CALIBRATION_FILES = ("statistics", "layers")


def calibration_data(wildcards):
    return text_file(CONFIG.calibrations[wildcards.calib], wildcards.model)


def calibration_settings(wildcards, exclude=(), **extra):
    calibration = CONFIG.calibrations[wildcards.calib]
    return settings(
        calibration,
        exclude=["shards", *WHERE, "rounds", "probed", "gradient_samples", *exclude],
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


def measured(*exclude, **extra):
    """A function of wildcards: the settings of a measurement that takes no `objectives` from the config."""
    return lambda w: calibration_settings(w, ["objectives", *exclude], **extra)


def gradient_settings(wildcards, **extra):
    """Those of gradients at the layers' outputs, which fewer samples are enough for."""
    calibration = CONFIG.calibrations[wildcards.calib]
    samples = min(calibration.samples, calibration.gradient_samples or calibration.samples)
    return calibration_settings(wildcards, ["objectives"], samples=samples, **extra)


def by_layer(folder, storage="keep"):
    """A manifest, and a directory of one file per layer."""
    return [f"{folder}.json", kept_or_temp(directory(folder), storage)]


MOMENTS = partial(by_layer, storage=CONFIG.storage.second_moments)  # large: deleted after use unless kept
GROUPS = {"structure": "kv_groups"}
MEASUREMENTS = {  # rule: (module of scripts/pruning/ that measures, outputs, settings)
    "calibrate_shard": (
        "calibration/gradients",
        [f"{names.SHARD}/{name}.parquet" for name in CALIBRATION_FILES],
        lambda w: calibration_settings(w, shards=int(w.shards), shard=int(w.shard)),
    ),
    "attention_statistics": ("calibration/gradients", [names.ATTENTION], lambda w: calibration_settings(w, **GROUPS)),
    "observe": ("paper/observe", [names.ACTIVATIONS, names.TOKEN_CLASSES], observation_settings),
    "second_moments": ("calibration/second_moments", MOMENTS(names.SECOND_MOMENTS), measured("gradient_checkpointing")),
    "attention_second_moments": (
        "calibration/second_moments",
        MOMENTS(names.ATTENTION_SECOND_MOMENTS),
        measured("gradient_checkpointing", **GROUPS),
    ),
    "output_gradients": ("calibration/output_gradients", by_layer(names.OUTPUT_GRADIENTS), gradient_settings),
    "attention_output_gradients": (
        "calibration/output_gradients",
        by_layer(names.ATTENTION_OUTPUT_GRADIENTS),
        partial(gradient_settings, **GROUPS),
    ),
    "parameter_gradients": ("calibration/parameter_gradients", [names.PARAMETER_TAYLOR], measured()),
    "attention_parameter_gradients": (
        "calibration/parameter_gradients",
        [names.ATTENTION_PARAMETER_TAYLOR],
        measured(**GROUPS),
    ),
}

for name, (what, outputs, own_settings) in MEASUREMENTS.items():

    rule:
        """One measurement of the dense model on a calibration's text, or on a shard of it."""
        name:
            name
        input:
            model=names.BASE,
            data=calibration_data,
            code=code("measure", what),
        output:
            outputs,
        log:
            log_of(names.SHARD if name == "calibrate_shard" else outputs[0]),  # one per shard, not per file
        params:
            settings=own_settings,
            what=what,
            outputs=lambda w, output: [f"--output={path}" for path in output],
            model=subpath(input.model, parent=True),
        shell:
            on_gpu(
                "--what {params.what} --model {params.model:q} --data {input.data:q} {params.outputs:q} "
                "--memory-mb {resources.mem_mb}"
            )


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
        settings=lambda w: settings(
            CONFIG.calibrations[w.calib], exclude=["rounds", "probed", "gradient_samples", "answers", "completion"]
        ),
        shards=lambda w: [f"--shard={shard}" for shard in shards_of(w)],
        output=subpath(output[0], parent=True),
    shell:
        on_cpu("{params.shards:q} --output {params.output:q}")


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
