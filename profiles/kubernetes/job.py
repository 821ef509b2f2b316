#!/usr/bin/env python
"""Jobs of Snakemake as Kubernetes Jobs, for the executor `cluster-generic`: submit, status, and (ids alone) cancel.

Snakemake's own Kubernetes plugin (0.5) assumes that pods share no disk: every input would be copied through object
storage, 15 GB for each load of a 7B model. Here all pods and snakemake have one volume at one path.
"""

import argparse
import hashlib
import json
import os
import sys
from pathlib import Path

import kubernetes
import yaml
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

TEMPLATE = Path(__file__).with_name("job.yaml")


def manifest(script: str, *, cpus: int, memory: int, minutes: int, gpus: int) -> dict:
    """A Job that runs a script of Snakemake's in the present folder. What it asks for is its limit, too."""
    job = yaml.safe_load(TEMPLATE.read_text(encoding="utf-8"))
    pod = job["spec"]["template"]["spec"]
    pod["activeDeadlineSeconds"] = 60 * minutes  # on its node; the Job's own counts waiting for one as well
    asked = {"cpu": str(cpus), "memory": f"{memory}M"} | ({"nvidia.com/gpu": str(gpus)} if gpus else {})
    if not gpus:
        pod.pop("tolerations", None)
    [container] = pod["containers"]
    container |= {"command": ["/bin/sh", script], "workingDir": os.getcwd()}
    container["resources"] = {"requests": asked, "limits": asked}
    return job


def submit(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    for name in ("cpus", "memory", "minutes", "gpus"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("script")
    own = vars(parser.parse_args(arguments))
    job, api = manifest(**own), kubernetes.client.BatchV1Api()
    job["metadata"].setdefault("labels", {})["work"] = work(Path(own["script"]))
    for found in api.list_namespaced_job(namespace(), label_selector=f"work={job['metadata']['labels']['work']}").items:
        if not found.status.succeeded and not found.status.failed:  # of a snakemake that was killed
            print(f"{found.metadata.name} is at this work already: waiting for it", file=sys.stderr)
            print(found.metadata.name)
            return
    print(api.create_namespaced_job(namespace(), job).metadata.name)


def work(script: Path) -> str:
    """A name of what a job makes, by what Snakemake notes in its script: equal for equal outputs by equal settings in
    the same folder."""
    noted = next(line for line in script.read_text().splitlines() if line.startswith("# properties = "))
    made = json.loads(noted.removeprefix("# properties = "))
    own = [os.getcwd(), sorted(made["output"]), made.get("params")]
    return hashlib.sha256(json.dumps(own).encode()).hexdigest()[:40]


def status(name: str) -> str:
    """`running` also while the API does not answer: it may come back."""
    try:
        found = kubernetes.client.BatchV1Api().read_namespaced_job_status(name, namespace()).status
    except ApiException as error:
        if error.status == 404:
            print(f"{name}: no such job any more", file=sys.stderr)
            return "failed"
        print(f"{name}: {error.status} {error.reason}", file=sys.stderr)
        return "running"
    except HTTPError as error:
        print(f"Kubernetes does not answer: {error}", file=sys.stderr)
        return "running"
    if found.failed:
        conditions = [f"{c.reason}: {c.message}" for c in found.conditions or [] if c.type == "Failed"]
        print(f"{name} failed. {' '.join(conditions)}\n{log(name)}", file=sys.stderr)
    return "failed" if found.failed else "success" if found.succeeded else "running"


def log(name: str) -> str:
    """The last lines of a job's pod."""
    api = kubernetes.client.CoreV1Api()
    try:
        pods = api.list_namespaced_pod(namespace(), label_selector=f"job-name={name}").items
        return "\n".join(api.read_namespaced_pod_log(p.metadata.name, namespace(), tail_lines=20) for p in pods)
    except (ApiException, HTTPError) as error:
        return f"(no log: {error})"


def cancel(names: list[str]) -> None:
    for name in names:
        kubernetes.client.BatchV1Api().delete_namespaced_job(name, namespace(), propagation_policy="Background")


def namespace() -> str:
    own = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")  # in a pod
    return (
        own.read_text()
        if own.is_file()
        else kubernetes.config.list_kube_config_contexts()[1]["context"].get("namespace", "default")
    )


if __name__ == "__main__":
    try:
        kubernetes.config.load_kube_config()
    except kubernetes.config.ConfigException:
        kubernetes.config.load_incluster_config()
    try:
        if sys.argv[1] == "submit":
            submit(sys.argv[2:])
        elif sys.argv[1] == "status":
            print(status(sys.argv[2]))
        else:
            cancel(sys.argv[1:])
    except ApiException as error:
        sys.exit(f"error: Kubernetes refuses: {error.body or error.reason}")
