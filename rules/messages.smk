"""
What Snakemake says, and what to do about it: the nearest targets to one that nothing makes, of which it suggests none (9.27),
and with `--quiet rules`, which hides why a job failed, the job's own words.
"""

import logging

from snakemake.io import get_wildcard_constraints, strip_wildcard_constraints
from snakemake.settings.enums import Quietness
from snakemake_interface_logger_plugins.common import LogEvent

from pruning.config import targets
from pruning.core.workflow import words_of


def advice(target):
    """On a target that no rule makes."""
    outputs = [
        targets.Output(strip_wildcard_constraints(str(file)), get_wildcard_constraints(str(file)))
        for each in workflow.rules
        for file in each.output
    ]
    methods = CONFIG.method_names
    declared = {"model": CONFIG.models, "dataset": CONFIG.datasets, "calib": CONFIG.calibrations, "task": CONFIG.tasks}
    declared |= {"method": methods, "first": methods, "second": methods, "tuning": CONFIG.tunings}
    declared |= {"table": PAGES, "figure": FIGURES, "budget": CONFIG.budgets}
    declared |= {"shape": catalogue.latency_shapes(CONFIG)} if CONFIG.latency else {}
    declared["variant"] = [str(names.DENSE), *CONFIG.calibrations, *methods, *CONFIG.tunings]
    files = [output.pattern for output in outputs if "{" not in output.pattern]
    return targets.advice(
        target, outputs, declared, [*files, *(r.name for r in workflow.rules if not r.has_wildcards())]
    )


def failed(record):
    """(rule, logs) of the jobs that a record of Snakemake's says have failed."""
    jobs = getattr(record, "job_error_info", None) or [vars(record)]
    return [(job["rule_name"], job["log"]) for job in jobs if "rule_name" in job]


class Remedies(logging.Filter):
    """Adds to messages that Snakemake logs; hides none."""

    def filter(self, record):
        if found := re.search(r"No rule to produce (.+) \(if you use input functions", str(record.msg)):
            said = advice(found[1])
            record.msg = f"{record.msg}\n\nerror: {said}" if said else record.msg
        quiet = Quietness.RULES in (workflow.output_settings.quiet or ())
        if quiet and getattr(record, "event", None) in (LogEvent.JOB_ERROR, LogEvent.GROUP_ERROR):
            for name, logs in failed(record):
                logger.error(f"{name}: {words_of([Path(log) for log in logs])}\n(all of it: {', '.join(logs)})")
        return True


logging.raiseExceptions = False  # of a full disk rules/start.smk tells, once
if workflow.is_main_process:
    logger.addFilter(Remedies())
