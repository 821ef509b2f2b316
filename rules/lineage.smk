"""
Lineage: one digest of all that a job's results are made from, so that a change is never lost.

Snakemake does not remake a missing intermediate whose descendants look current: where a job fails after an edit, the results
made from it before keep settings that look up to date. So every job's tracked settings hold the digest of its whole line of ancestors:
their settings, commands, code and sources, by content. Stages write it into what they make, and refuse an input of another one.

Snakemake also remakes whatever was made from a deleted intermediate, once another job needs that again: with one sparsity more, the
models of all other sparsities, and their evaluations. Of an equal lineage an intermediate comes out as it was, so here they stay. Where
it does not, Snakemake sees in the next run that its content differs.
"""

from snakemake.dag import DAG
from snakemake.iocontainers import Wildcards
from snakemake.jobs import Job
from snakemake.output_index import OutputIndex

from pruning.core.chain import LINEAGE, SOURCES, check_lineage, content

OWN = {}  # rule -> what gives a job's settings without its lineage
lineages = {}


@cache
def index_of_products():
    return OutputIndex(workflow.rules)


@cache
def job_that_makes(path):
    """The job of a file, as Snakemake chooses it; None of a source."""
    rules = sorted(index_of_products().match_producers(path), reverse=True)
    return job_of(rules[0], rules[0].get_wildcards(path)) if rules else None


def job_of(rule, wildcards):
    """The plan's own job; on a node of a cluster, where the plan holds one job alone, another that is equal."""
    key = (rule.name, *sorted(wildcards.items()))
    return workflow.dag.job_factory.cache.get(key) or Job(rule, workflow.dag, dict(wildcards))


@cache
def content_of(path):
    """sha256 of a source. Those outside the workflow may be large: they are read again only when they look changed."""
    return content(Path(path), None if path.startswith(SCRIPTS) else SOURCES)


def tracked(rule, wildcards):
    """A job's settings and other params that do not come from its files, without its lineage."""
    given = [OWN[rule]] + [item for name, item in rule.params._allitems() if name not in ("settings", "lineage")]
    for item in given:
        if not rule._is_deriving_function(item):
            yield item(Wildcards(fromdict=wildcards)) if callable(item) else item


def lineage_of(job):
    """The job's digest, and the digests of the jobs that make its inputs."""
    key = (job.rule.name, *sorted(job.wildcards_dict.items()))
    if key not in lineages:
        line, parents = [job.rule.shellcmd, *tracked(job.rule, job.wildcards_dict), *map(str, job.output)], []
        for file in (file for file in job.input if not file.is_ancient):  # what is ancient is no reason to run again
            if maker := job_that_makes(str(file)):
                parents.append(lineage_of(maker)[0])
            line.append([os.path.basename(file), parents[-1] if maker else content_of(str(file))])
        lineages[key] = artifacts.key_of(*line)[:LINEAGE], list(dict.fromkeys(parents))
    return lineages[key]


def refuse_foreign(job, own):
    """End the run if results that Snakemake has no record of, as after a copy without .snakemake, are of another lineage."""
    for path in job.output:
        known = workflow.persistence.metadata(path) or path in workflow.dag.forcefiles
        if os.path.exists(path) and not known:
            found = artifacts.lineage_of(Path(path)) or own
            checked(check_lineage, Path(path), found, {own})


def with_lineage(rule):
    """A param of a rule that holds its jobs' lineage: in their settings, where they have any, so that stages are told."""

    def lineage(wildcards):
        job = job_of(rule, dict(wildcards.items()))
        own, parents = lineage_of(job)
        if workflow.is_main_process:
            refuse_foreign(job, own)
        if OWN[rule] is None:
            return own
        settings = OWN[rule](wildcards) if callable(OWN[rule]) else OWN[rule]
        return json.dumps({**json.loads(settings), "lineage": "".join([own, *parents])})

    return lineage


for rule_ in [each for each in workflow.rules if each.output and each not in OWN]:
    complete(rule_)
    OWN[rule_] = getattr(rule_.params, "settings", None)
    if OWN[rule_] is None:
        rule_.set_params(lineage=with_lineage(rule_))
    else:
        rule_.params.settings = with_lineage(rule_)


PUT_BACK = {"output files have to be generated", "input files updated by another job"}


def is_put_back(dag, job):
    """Whether all that a planned job has to do is to make deleted intermediates again."""
    reason = dag.reason(job)
    deleted = set(reason.get_names()) <= PUT_BACK and reason.missing_output <= job.temp_output
    return job.rule in OWN and deleted and dag.workflow.persistence.has_metadata(job)  # else it never ran


def reached(jobs, following):
    """Jobs, and all that follow from them."""
    found, queue = set(), [*jobs]
    while queue:
        if (job := queue.pop()) not in found:
            found.add(job)
            queue += following(job)
    return found


def jobs_to_run(dag):
    """Of the planned jobs those whose results are missing or may change, and those that put back what they read."""
    planned = dag._needrun

    def made_of(job):
        made = dag.depending[job].items()
        return [other for other, files in made if other in planned and files & dag.reason(other).updated_input_run]

    def makers(job):
        read = dag.dependencies[job].items()
        return [other for other, files in read if other in planned and files & dag.reason(other).missing_output]

    changing = reached((job for job in planned if not is_put_back(dag, job)), made_of)
    wanted = [job for job in planned & dag.targetjobs if dag.reason(job).missing_output]
    return reached([*changing, *wanted], makers)


async def update_needrun(dag, *given, **named):
    """Snakemake's own, less the jobs that a deleted intermediate alone would run again (9.27; github.com/snakemake/snakemake,
    issues 1964 and 2328, open; with an option for it this goes)."""
    await SNAKEMAKES(dag, *given, **named)
    needed = jobs_to_run(dag)
    for job in dag._needrun - needed:
        dag.reason(job).clear()
    dag._needrun.intersection_update(needed)
    waits = {job: sum(other in needed for other in dag.dependencies[job]) for job in needed}
    dag._n_until_ready.clear()
    dag._n_until_ready.update(waits)
    dag._len = len(dag._finished | needed)


SNAKEMAKES = getattr(DAG.update_needrun, "of_snakemake", DAG.update_needrun)
update_needrun.of_snakemake = SNAKEMAKES
DAG.update_needrun = update_needrun
