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
    results/{model}/calibration/{calib}/gisp.parquet            one row per neuron, for the score gisp
    results/{model}/calibration/{calib}/parameter_taylor.parquet    one row per neuron, for the score parameter_taylor
    results/{model}/calibration/{calib}/{label}.parquet         one row per channel of a structure that is cut as well (of
                                                                key-value groups: attention.parquet); and so with
                                                                {label}_second_moments/ and the others above
"""

from pruning.config.methods import ALLOCATIONS
from pruning.core.layer_files import kind_of, label_of
from pruning.methods import allocation

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
        **offloaded(wildcards, exclude),
        **extra,
    )


def offloaded(wildcards, exclude):
    """Of a model whose layers stay on disk. A backward pass would hold all of them, if it did not compute them again."""
    if not CONFIG.models[wildcards.model].offload:
        return {}
    return {"offload": True} | ({} if "gradient_checkpointing" in exclude else {"gradient_checkpointing": True})


def observation_settings(wildcards):
    spectrum, trap = CONFIG.spectrum or Spectrum(), CONFIG.trap or Trap()
    own = {
        "tokens": spectrum.tokens,
        "layer": EXPERIMENT.layer,
        "objectives": list(dict.fromkeys(["energy", trap.objective, "ce"])),  # those of trap.MEASURES, and its own
    }
    return calibration_settings(wildcards, ["objectives"], **own)


def shards_of(wildcards):
    shards = CONFIG.calibrations[wildcards.calib].shards
    return [names.SHARD.format(**wildcards, shard=shard, shards=shards) for shard in range(shards)]


def gradient_settings(wildcards, **extra):
    """Those of gradients at the layers' outputs, which fewer samples are enough for."""
    calibration = CONFIG.calibrations[wildcards.calib]
    samples = min(calibration.samples, calibration.gradient_samples or calibration.samples)
    return calibration_settings(wildcards, ["objectives"], samples=samples, **extra)


def rounds_settings(wildcards):
    """Those of iterations, whose gradients are of fewer samples as well."""
    calibration = CONFIG.calibrations[wildcards.calib]
    few = calibration.gradient_samples
    own = {"rounds": calibration.rounds} | ({"gradient_samples": few} if few and few < calibration.samples else {})
    return calibration_settings(wildcards, ["objectives"], **own)


MEASUREMENTS = {  # rule: (module of scripts/pruning/ that measures, outputs, settings)
    "calibrate_shard": (
        "calibration/gradients",
        [f"{names.SHARD}/{name}.parquet" for name in CALIBRATION_FILES],
        lambda w: calibration_settings(w, shards=int(w.shards), shard=int(w.shard)),
    ),
    "observe": ("paper/observe", [names.ACTIVATIONS, names.TOKEN_CLASSES], observation_settings),
    "gisp": ("calibration/gisp", [names.of_kind("gisp")], partial(calibration_settings, exclude=["objectives"])),
    "rounds": ("methods/rounds", [names.of_kind("rounds")], rounds_settings),
}
OF_STRUCTURES = {  # the same of each structure: rule, after its label: (module, kind of artefact, settings)
    "statistics": ("gradients", "statistics", calibration_settings),
    "second_moments": (
        "second_moments",
        "second_moments",
        partial(calibration_settings, exclude=["objectives", "gradient_checkpointing"]),
    ),
    "output_gradients": ("output_gradients", "output_gradients", gradient_settings),
    "parameter_gradients": (
        "parameter_gradients",
        "parameter_taylor",
        partial(calibration_settings, exclude=["objectives"]),
    ),
}
ALSO = {"rounds": ["methods/compensation/ridge_attention"]}  # plug-ins, beside the module
CUT = dict.fromkeys(name for scheme in ALLOCATIONS for name in allocation.structures_of(scheme))

for structure, (name, (what, kind, own)) in product(CUT, OF_STRUCTURES.items()):
    if structure != "ffn" and kind_of(kind, structure) == kind:
        continue  # measured with it
    path = names.of_kind(kind_of(kind, structure))
    kept = CONFIG.storage.second_moments if kind == "second_moments" else "keep"  # large
    outputs = [f"{path}.json", kept_or_temp(directory(path), kept)] if kind in names.MATRICES else [path]
    if structure != "ffn":
        name, own = f"{label_of(structure)}_{name}", partial(own, structure=structure)
    if name != "statistics":  # those of FFN neurons are sharded
        MEASUREMENTS[name] = f"calibration/{what}", outputs, own

for name, (what, outputs, own_settings) in MEASUREMENTS.items():

    rule:
        """One measurement of the dense model on a calibration's text, or on a shard of it."""
        name:
            name
        input:
            model=names.BASE,
            data=calibration_data,
            code=code("measure", what, *ALSO.get(name, ())),
        output:
            outputs,
        log:
            log_of(names.SHARD if name == "calibrate_shard" else outputs[0]),  # one per shard, not per file
        priority: 1  # a long line of jobs waits for it
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
