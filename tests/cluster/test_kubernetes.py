"""The pipeline with the Kubernetes profile: what it asks a cluster for. No cluster (kubernetes_api.py)."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from kubernetes_api import Cluster

from slurm import until
from workspace import ROOT, Workspace, changed

pytestmark = pytest.mark.skipif(
    not (find_spec("snakemake_executor_plugin_cluster_generic") and find_spec("kubernetes")),
    reason="no plugin: pip install -c envs/lock.txt snakemake-executor-plugin-cluster-generic kubernetes",
)

OWN = """
rule device:
    output: "device{number}.txt"
    resources: mem_mb=grown(600), gpu=lambda w: int(w.number)
    shell: "pwd > {output}"

rule again:
    output: "again.txt"
    resources: mem_mb=grown(600)
    shell: "echo {resources.mem_mb} >> starts; echo what went wrong >&2; "
        "test {resources.mem_mb} -gt 600; touch {output}"

rule nap:
    output: "nap.txt"
    resources: mem_mb=grown(600)
    shell: "echo nap >> starts; sleep 25; touch {output}"
"""


@pytest.fixture
def cluster(tmp_path_factory):
    made = Cluster(tmp_path_factory.mktemp("kubernetes"))
    yield made
    made.stop()


def command(targets: Sequence[str]) -> list[str]:
    options = ["--profile", "profiles/kubernetes", "--configfile", "test.yaml", "--seconds-between-status-checks", "1"]
    return ["timeout", "-k", "10", "500", sys.executable, "-m", "snakemake", *options, "--", *targets]


def through(cluster: Cluster, own: Workspace, *targets: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "KUBECONFIG": str(cluster.kubeconfig)}
    return subprocess.run(command(targets), cwd=own.path, env=environment, capture_output=True, text=True)


def limits(job: dict) -> dict[str, str]:
    [container] = job["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == container["resources"]["requests"]
    return container["resources"]["limits"]


def test_table1_is_that_of_the_local_run_to_the_byte(cluster: Cluster, workspace: Workspace, finished: Workspace):
    done = through(cluster, workspace, "results/table1.csv")
    assert done.returncode == 0, done.stderr[-4000:]
    assert len(cluster.jobs) == 22  # of 30: three fetch here, and six masks are one
    masks = [job for job in cluster.jobs if limits(job) == {"cpu": "1", "memory": "1000M"}]
    assert 18 * 60 in [job["template"]["spec"]["activeDeadlineSeconds"] for job in masks]
    assert len(workspace.artefacts()) == 79 and workspace.unlike(finished) == []


def test_jobs_ask_for_their_gpus_and_only_those_go_to_nodes_kept_for_gpus(cluster: Cluster, own: Workspace):
    done = through(cluster, own, "device0.txt", "device2.txt")
    assert done.returncode == 0, done.stderr[-4000:]
    asked = {limits(job).get("nvidia.com/gpu"): job["template"]["spec"].get("tolerations") for job in cluster.jobs}
    assert asked[None] is None and asked["2"][0]["key"] == "nvidia.com/gpu"
    assert Path((own.path / "device2.txt").read_text().strip()) == own.path


def test_a_failed_job_is_tried_again_with_more_memory(cluster: Cluster, own: Workspace):
    done = through(cluster, own, "again.txt")
    assert done.returncode == 0, done.stderr[-4000:]
    assert (own.path / "starts").read_text().split() == ["600", "1200"]
    assert [limits(job)["memory"] for job in cluster.jobs] == ["600M", "1200M"]
    assert "what went wrong" in done.stderr + done.stdout


def test_what_a_cluster_refuses_is_said(cluster: Cluster, own: Workspace):
    template = own.path / "profiles/kubernetes/job.yaml"
    with changed(template, template.read_text().replace("claimName: pruning", "claimName: other")):
        done = through(cluster, own, "device0.txt")
    assert done.returncode == 1 and 'persistentvolumeclaim \\"other\\" not found' in done.stderr
    assert "Traceback" not in done.stderr and not (own.path / "device0.txt").exists()


def test_an_api_that_is_away_is_waited_for_and_a_killed_run_takes_its_jobs_up_again(cluster: Cluster, own: Workspace):
    environment = {**os.environ, "KUBECONFIG": str(cluster.kubeconfig)}
    with (own.path / "run.log").open("w") as log:
        run = subprocess.Popen(
            command(["nap.txt"]), cwd=own.path, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    until(lambda: (own.path / "starts").exists(), 60, "the job has begun")
    cluster.away = 3
    until(lambda: cluster.away == 0, 60, "the API was asked and is back")
    assert run.poll() is None
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    done = through(cluster, own, "nap.txt")
    assert done.returncode == 0, done.stderr[-4000:]
    assert (own.path / "starts").read_text().split() == ["nap"] and len(cluster.jobs) == 1


def test_the_cluster_files_name_the_same_things():
    pod = yaml.safe_load((ROOT / "profiles/kubernetes/job.yaml").read_text())["spec"]["template"]["spec"]
    found = list(yaml.safe_load_all((ROOT / "profiles/kubernetes/cluster.yaml").read_text()))
    kinds = {document["kind"]: document for document in found}
    [container], [job] = kinds["Pod"]["spec"]["containers"], pod["containers"]
    assert kinds["PersistentVolumeClaim"]["metadata"]["name"] == "pruning"
    assert kinds["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteMany"]
    assert kinds["Pod"]["spec"]["volumes"] == pod["volumes"]
    assert (container["image"], container["volumeMounts"]) == (job["image"], job["volumeMounts"])
