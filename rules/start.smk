"""
Before any job: no other run is at work here, what the config names is looked for, what this machine has is counted, and jobs
of a killed run are looked for in Slurm's queue.
"""

from snakemake.utils import min_version

min_version("9.27")

if workflow.is_main_process:
    checked(preflight.check_place, HOME)
    checked(locks.replace_snakemakes, Path(".snakemake"))
    checked(preflight.check, CONFIG)
    if old := artifacts.of_earlier_versions(Path("results")):
        logger.warning(f"{old[0].parts[1]}: an earlier version made these results; all of them are made again, once")
    if plugin := sys.modules.get("snakemake_executor_plugin_slurm"):
        slurm.survive_outages(plugin.Executor)
elif workflow.remote_exec:
    # A job on a node of a cluster: only the login node fetches, and the jobs of a group run one after another, in what
    # the largest of them asks for (Snakemake does not hand the profile's `resources` on).
    hub.close()
    workflow.register_resource("in_turn", 1)


onstart:
    # Not known before the jobs are; here no dry-run comes.
    checked(locks.hold, Path(".snakemake"))
    checked(preflight.check_size, CONFIG, sum(1 for _ in workflow.dag.needrun_jobs()))
    checked(partial(slurm.refuse_twice, Path.cwd(), submits=workflow.executor_plugin.name == "slurm"))
    # Snakemake starts as many local jobs as there are cores; memory and GPUs must suffice as well. Known only now:
    # whether jobs run here at all, and that this is no dry-run.
    if workflow.local_exec:
        # Whether jobs see the packages that are seen here.
        own_packages = not workflow.deployment_settings.deployment_method
        visible = checked(devices.visible) if preflight.gpus_asked(CONFIG) or CONFIG.custom_rules else []
        checked(preflight.check_gpus, CONFIG, visible, own_packages)
        checked(preflight.check_memory, CONFIG)
        for slow in preflight.slow_models(CONFIG):
            logger.warning(f"warning: {slow}")
        if own_packages:
            checked(preflight.check_python)
            checked(preflight.check_packages, CONFIG)
        for name, limit in (("mem_mb", memory.physical() // 10**6), ("gpu", len(visible))):
            if name not in workflow.global_resources:
                workflow.register_resource(name, limit)
        # Jobs here are limited by the cores, but Snakemake limits all submissions, to 100 a second, and no value of
        # `max-jobs-per-timespan` says none. Its limiter sets a timer at every job's end that sets another a second later
        # (9.27; github.com/snakemake/snakemake, PR 3744, open): after 200 jobs they took 44% of a core.
        workflow.scheduler.job_rate_limiter = None


include: "messages.smk"
