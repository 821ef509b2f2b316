"""
What the rules of all stages have alike. A rule of a stage says its inputs (`code` among them), its outputs, its settings
and, by on_cpu or on_gpu, its command line:

    shell:
        on_gpu("--model {params.model:q} --data {input.data:q} --output {output:q}")

What else a rule needs, `complete` adds at the end (rules/lineage.smk), unless the rule says it itself:

                on_cpu                          on_gpu
    log         results/logs/…, where the first output lies below results/; benchmark: results/benchmarks/… likewise
    conda       envs/cpu.yaml                   envs/gpu.yaml
    threads     1                               the model's `threads`
    mem_mb      1000, more with each attempt    the model's `memory_gb`, more with each attempt
    gpu                                         the model's `gpus`
"""

import shlex

from snakemake.io import strip_wildcard_constraints

SCRIPT, LEASED = "python {input.code[0]:q}", "{resources.gpu}"  # by these `complete` knows a stage's command


def on_cpu(options):
    """A stage's command line: its script, with the job's settings and these options."""
    return f"{SCRIPT} --settings {{params.settings:q}} {options} > {{log:q}} 2>&1"


def on_gpu(options):
    """The same on leased GPUs, if the job asks for any, and with its threads."""
    launcher = shlex.quote(f"{SCRIPTS}/launch.py")  # changes no result, so it is no input
    command = on_cpu(f"{options} --threads {{threads}}")
    return f"python {launcher} --gpus {LEASED} -- {command}"


def report_by(maker, command=on_cpu):
    """The command line of scripts/report.py: a maker, what its rule's `files` name, and the rule's outputs."""
    return command(f"--maker {maker} {{params.files:q}} {{output:q}}")


def named(wildcards, input):
    """For `files`: all that a rule names as its input, but for its code."""
    given = {name: [own] if isinstance(own, str) else own for name, own in input.items() if name != "code"}
    return [f"--file={name}={path}" for name, paths in given.items() for path in paths]


def memory_mb(wildcards, attempt):
    return CONFIG.models[wildcards.model].memory_gb * 1000 * attempt


def grown(mem_mb):
    """Memory of a stage whose model does not matter: more with each attempt (`retries`, in profiles/slurm)."""
    return lambda wildcards, attempt: mem_mb * attempt


def gpus(wildcards):
    return CONFIG.models[wildcards.model].gpus


def threads_of(wildcards):
    return CONFIG.models[wildcards.model].threads


def kept_or_temp(output, storage):
    return output if storage == "keep" else temp(output)


def complete(stage):
    """Add what a stage's rule does not say itself. Other rules, as a user's own, stay as they are."""
    said, command = stage.ruleinfo, stage.shellcmd or ""
    if SCRIPT not in command:
        return
    leased, user = LEASED in command, workflow.resource_settings  # by --set-resources, --set-threads
    stage.log_modifier = stage.benchmark_modifier = stage.output_modifier
    if not stage.log:
        stage.set_log(log_of(strip_wildcard_constraints(str(stage.output[0]))))
    if not stage.benchmark:
        stage.benchmark = benchmark_of(strip_wildcard_constraints(str(stage.log[0])).removeprefix("results/logs/"))
    stage.conda_env = stage.conda_env or f"{HOME}/envs/{'gpu' if leased else 'cpu'}.yaml"
    if leased and said.threads is None and stage.name not in user._parsed_overwrite_threads:
        stage.resources["_cores"] = threads_of
    usual = {"gpu": gpus, "mem_mb": memory_mb} if leased else {"mem_mb": grown(1000)}
    own = {*(said.resources[1] if said.resources else ()), *user._parsed_overwrite_resources.get(stage.name, ())}
    stage.resources.update({name: value for name, value in usual.items() if name not in own})
