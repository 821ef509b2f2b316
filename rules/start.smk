"""
Before any job: a stale lock is cleared, what the config names is looked for, and what this machine has is counted.
"""

if workflow.is_main_process:
    checked(preflight.check_place, HOME)
    LIVE = locks.clear_stale(Path(".snakemake"))
    checked(preflight.check, CONFIG)


onstart:
    # Snakemake starts as many local jobs as there are cores; memory and GPUs must suffice as well. Known only now:
    # whether jobs run here at all, and that this is no dry-run.
    if workflow.local_exec:
        visible = devices.visible()
        checked(preflight.check_machine, CONFIG, visible)
        if not workflow.deployment_settings.deployment_method:  # jobs see the packages that are seen here
            checked(preflight.check_python)
            checked(preflight.check_packages, CONFIG)
        for name, limit in (("mem_mb", memory.physical() // 10**6), ("gpu", len(visible))):
            if name not in workflow.global_resources:
                workflow.register_resource(name, limit)
        # Submissions to a queue are limited to 100 a second; jobs here by the cores. The limiter sets a timer at every
        # job's end that sets another a second later (Snakemake 9.27): after 200 jobs they took 44% of a core.
        workflow.scheduler.job_rate_limiter = None
