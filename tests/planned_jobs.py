"""The jobs of a DAG, as one start of Snakemake plans them, and those that an edit of a file would run again.

python tests/planned_jobs.py FILE …    snakemake with these arguments, which writes its jobs to FILE as JSON
"""

import json
import os
import sys
from collections import Counter
from pathlib import Path

import networkx as nx


class Dag:
    """All jobs of a target, whether they are to be run or not, named by Snakemake's ids.

    Of each: its `rule` and the `file` of that; its `inputs`, each with whether it is ancient, no reason to run again;
    those `missing`, as temporary ones; and its `makers`: jobs that it depends on, with their outputs that are inputs
    here.
    """

    def __init__(self, file: str):
        self.jobs = json.loads(Path(file).read_text())
        edges = [(maker, name, files) for name, job in self.jobs.items() for maker, files in job["makers"].items()]
        self.after = nx.DiGraph([(maker, user) for maker, user, _ in edges])
        """From a job to those that depend on it."""
        self.again = nx.DiGraph()
        """From a job to those that are run because it is."""
        for maker, user, files in edges:
            inputs, missing = self.jobs[user]["inputs"], self.jobs[user]["missing"]
            if not all(inputs[file] for file in files):
                self.again.add_edge(maker, user)
            if not set(missing).isdisjoint(files):
                self.again.add_edge(user, maker)

    def inputs_with(self, file: str) -> set[str]:
        """All inputs of the jobs that have this one."""
        return {own for job in self.jobs.values() if file in job["inputs"] for own in job["inputs"]}

    def after_editing(self, file: str) -> dict[str, int]:
        """Rule -> number of jobs to be run after an edit of this file, where nothing was to be done before.

        As Snakemake finds them (`DAG.update_needrun`): it looks for edits upstream first, and at no job downstream of
        one with some; from there it goes to the jobs that depend on one, unless all that they take from it is ancient,
        and to those that make what it misses.
        """
        edited = {name for name, job in self.jobs.items() if job["inputs"].get(file) is False}
        first = edited - reached(self.after, edited)
        return dict(Counter(self.jobs[name]["rule"] for name in first | reached(self.again, first)))


def reached(graph: nx.DiGraph, names: set[str]) -> set[str]:
    """Nodes that are reached from these in one or more steps."""
    return set().union(*(nx.descendants(graph, name) for name in names if name in graph))


def main(file: str, *arguments: str) -> None:
    import snakemake.cli
    from snakemake.workflow import Workflow

    build = Workflow._build_dag

    def build_and_write(workflow: Workflow) -> None:
        build(workflow)
        dag, rows = workflow.dag, {}
        for job in dag.jobs:
            rows[dag.jobid(job)] = {
                "rule": job.rule.name,
                "file": os.path.basename(job.rule.snakefile),
                "inputs": {str(name): name.is_ancient for name in job.input},
                "makers": {dag.jobid(maker): list(files) for maker, files in dag.dependencies[job].items()},
                "missing": [name for name in job.input if not os.path.exists(name)],
            }
        Path(file).write_text(json.dumps(rows))

    Workflow._build_dag = build_and_write
    sys.argv = ["snakemake", *arguments]
    snakemake.cli.main(list(arguments))


if __name__ == "__main__":
    main(*sys.argv[1:])
