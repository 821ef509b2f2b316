"""
Evaluation of the dense model, of every pruned one and of every recovered one, item by item.

`variant` is `dense`, `{calib}/{method}/{sparsity}`, or that and `/{tuning}`; and any of these with `.{type}`: the values of its
GGUF file (rules/quantise.smk) in place of the weights. A task is either lm-eval's (config/tasks/{task}.yaml) or a
windowed perplexity (tasks.{task} in the config). Tasks that `experiment.together` names are evaluated in one job: the model is loaded once.

INPUT
    manifest.json and files of the variant's model, and its GGUF file; with `storage.compact: memory` the dense model's, and a mask
    config/tasks/{task}.yaml                                of lm-eval's task, and those of that folder it includes
    results/data/…                                          the data files that the task names
OUTPUT
    results/{model}/hidden_states/{task}/, .json            of a task with `divergence`: the dense model's head and, of
                                                            each batch of windows or records, what it gets
    results/{model}/eval/{variant}/{task}.json              the whole result
    results/{model}/eval/{variant}/{task}.samples.parquet   one row per item and metric
Answers already given are kept in a hidden file beside the outputs: a killed evaluation goes on where it stopped.
"""

from pruning.config import definitions
from pruning.models import gguf

PRUNED = rf"({one_of(CONFIG.calibrations)})/({METHOD})/\d{{1,2}}(/({one_of(CONFIG.tunings)}))?"
VARIANT = rf"(dense|{PRUNED})(\.({one_of(gguf.BLOCK)}))?"
# (model, tasks) -> the variants that are evaluated on all of these tasks.
TOGETHER = catalogue.together(CONFIG, [*TABLES.values(), *FIGURES.values()])


def variant_of(wildcards):
    return Variant.parse(wildcards.variant)


def cut_in_memory(variant):
    """Whether a variant is cut out of the dense model when that is loaded, instead of being written and read."""
    if CONFIG.storage.compact != "memory" or not variant.calib:
        return False
    method = CONFIG.method(variant.method)
    whole = method.export == "exact" and not method.vocabulary
    return whole and method.compensate in ("none", "bias")  # ridge takes long: once is enough


def parts_of(wildcards):
    """The files that a variant's model is made of."""
    variant, model = variant_of(wildcards), wildcards.model
    found = {"adapter": variant.adapter_files(model)}
    if variant.type:
        checked(gguf.check, variant.type, "quantised: ")
        found["gguf"] = [ancient(f"{variant.gguf(model)}.gguf"), f"{variant.gguf(model)}.json"]  # which has its hash
    if cut_in_memory(variant):
        own = {"model": model, "calib": variant.calib, "method": variant.method, "sparsity": variant.sparsity}
        found |= {"manifest": names.BASE.format(**own), "mask": names.MASK.format(**own)}
        return found | {"evidence": list(requirements.files(CONFIG.method(variant.method), "compact", own).values())}
    found["manifest"] = variant.manifest(model)
    if variant.calib:
        # The directory, so that a deleted one is made again; the manifest says whether it changed.
        found["weights"] = ancient(variant.weights(model))
    return found


def parts_given(wildcards):
    """The same by the names of methods/variants.py, for a command line."""
    variant, model, parts = variant_of(wildcards), wildcards.model, parts_of(wildcards)
    memory = cut_in_memory(variant)
    found = {"model": (names.DENSE if memory else variant).weights(model), "manifest": parts["manifest"]}
    if memory:
        found |= {"mask": parts["mask"], "compensate": compensation_of(variant)}
        found |= {"evidence": parts["evidence"][0]} if parts["evidence"] else {}
    found |= {"adapter": variant.adapter(model)} if variant.tuning else {}
    return found | ({"gguf": f"{variant.gguf(model)}.gguf"} if variant.type else {})


def parts_code(wildcards):
    """Plug-ins that make the model."""
    variant = variant_of(wildcards)
    found = plugins(variant) if cut_in_memory(variant) else []
    return [*found, "models/dequantised"] if variant.type else found


def made_from(task, model):
    """What a task is made from: lm-eval's definition of it, or a text."""
    own = CONFIG.tasks[task]
    if own.kind == "lm_eval":
        return str(CONFIG.definition(task))
    if own.answers:
        return names.ANSWERS.format(model=CONFIG.lineage(model)[-1], task=own.answers)
    return names.DATA.format(dataset=own.dataset, split=own.split)


@cache  # of thousands of jobs
def included(task):
    """Definitions of ours that a task's own includes."""
    return definitions.included(CONFIG.definition(task)) if CONFIG.tasks[task].kind == "lm_eval" else []


@cache
def data_of(task):
    """Data files that a definition names."""
    return preflight.data_files(CONFIG.definition(task)) if CONFIG.tasks[task].kind == "lm_eval" else []


def windows_settings(wildcards):
    """Those of a task that say what its windows, or records, are."""
    own = CONFIG.tasks[wildcards.task].model_dump()
    keys = ("prompt", "text", "joiner", "seqlen", "tokens", "batch_size")
    said = {key: own[key] for key in keys if key in own}
    return settings(None, dtype=CONFIG.models[wildcards.model].dtype, **said)


def states_of(wildcards, tasks):
    """Task -> the dense model's hidden states on its text, of those that compare with it."""
    dense = CONFIG.lineage(wildcards.model)[-1]
    compared = [task for task in tasks if getattr(CONFIG.tasks[task], "divergence", False)]
    return {task: names.HIDDEN_STATES.format(model=dense, task=task) for task in compared}


def backend_of(wildcards, task):
    """What answers a task: a text is the model's own."""
    own = CONFIG.tasks[task]
    if own.kind != "lm_eval":
        return "hf"
    if own.backend and variant_of(wildcards).type:
        checked(gguf.check_installed, f"tasks.{task}.backend: what runs in")
        return own.backend
    return CONFIG.models[wildcards.model].backend


def evaluation(wildcards, tasks):
    """Its input files beside the model's."""
    sources = [made_from(task, wildcards.model) for task in tasks] + [file for task in tasks for file in included(task)]
    data = {file for task in tasks for file in data_of(task)}
    kinds = {f"evaluation/kinds/{CONFIG.tasks[task].kind}" for task in tasks}
    kinds |= {f"evaluation/backends/{backend_of(wildcards, task)}" for task in tasks}
    states = states_of(wildcards, tasks).values()
    found = {"sources": sources, "data": sorted(data), "states": [f"{path}.json" for path in states]}
    found |= {"hidden": [ancient(path) for path in states]}  # its manifest says whether it changed
    return found | {"code": code("evaluate", *sorted(kinds), *parts_code(wildcards))}


def evaluation_settings(wildcards, tasks):
    model = CONFIG.models[wildcards.model]
    own = {
        t: CONFIG.tasks[t].model_dump(exclude={"title", "chance", "backend"}) | {"dtype": model.dtype} for t in tasks
    }
    for task in tasks:
        for key in ("stop_early", "divergence"):  # what is not asked for is no setting
            if not own[task].get(key):
                own[task].pop(key, None)
        if (backend := backend_of(wildcards, task)) != "hf":
            own[task] |= {"backend": backend, "max_model_len": model.max_model_len}
    return settings(None, tasks=own)


def of_tasks(function):
    """A function of wildcards and of the tasks of a rule, as one of wildcards alone."""
    return lambda tasks: lambda wildcards: function(wildcards, tasks or [wildcards.task])


evaluation, evaluation_settings = of_tasks(evaluation), of_tasks(evaluation_settings)
states_options = of_tasks(lambda w, tasks: [f"--states={own}={path}.json" for own, path in states_of(w, tasks).items()])
task_options = of_tasks(lambda w, tasks: [f"--source={task}={made_from(task, w.model)}" for task in tasks])
ONE = {("", ()): VARIANT}  # of any model, any one task

for number, ((model, tasks), variants) in enumerate({**ONE, **TOGETHER}.items()):
    made = [names.EVALUATION.replace("{task}", task) for task in tasks or ["{task}"]]
    label = names.EVALUATION.replace("{task}", names.joined(tasks)) if tasks else made[0]

    rule:
        """One model on its tasks."""
        name:
            f"evaluate_together_{number}" if tasks else "evaluate"
        input:
            unpack(parts_of),
            unpack(evaluation(tasks)),
        output:
            results=[f"{path}.json" for path in made],
            samples=[f"{path}.samples.parquet" for path in made],
        log:
            log_of(label),
        wildcard_constraints:
            model=one_of([model] if tasks else CONFIG.models),
            variant=one_of(map(str, variants)) if tasks else VARIANT,
        resources:
            runtime=lambda w, attempt: 240 * attempt,
        params:
            settings=evaluation_settings(tasks),
            parts=lambda w: json.dumps(parts_given(w)),
            sources=task_options(tasks),
            states=states_options(tasks),
            folder=subpath(output[0], parent=True),
        shell:
            on_gpu("--variant {params.parts:q} {params.sources:q} {params.states:q} --output {params.folder:q}")


if TOGETHER:
    workflow.ruleorder(*(f"evaluate_together_{number + 1}" for number in range(len(TOGETHER))), "evaluate")


rule hidden_states:
    """What the dense model's head gets on a text, for all that are compared with it there."""
    input:
        model=names.BASE,
        source=lambda w: made_from(w.task, w.model),
        code=code("hidden_states"),
    output:
        manifest=f"{names.HIDDEN_STATES}.json",
        folder=directory(names.HIDDEN_STATES),
    params:
        settings=windows_settings,
        model=subpath(input.model, parent=True),
    shell:
        on_gpu("--model {params.model:q} --source {input.source:q} --output {output.manifest:q}")
