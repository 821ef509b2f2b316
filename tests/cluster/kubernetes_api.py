"""As much of Kubernetes' API as the plugin uses, on this machine: a job's container is a process, its volume the disk.

Not a cluster: nothing is scheduled, isolated or limited. What is refused is what a cluster refuses of such a job.
"""

import json
import os
import re
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlparse

CLAIMS = {"pruning"}


class Cluster:
    def __init__(self, state: Path):
        self.state, self.jobs, self.made, self.pods, self.away = state, [], [], {}, 0
        self.lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(handler) -> None:
                length = int(handler.headers.get("Content-Length") or 0)
                body = json.loads(handler.rfile.read(length) or b"null")
                url = urlparse(handler.path)
                status, content = self.answer(handler.command, url.path, parse_qs(url.query), body)
                text = content if isinstance(content, str) else json.dumps(content)
                handler.send_response(status)
                handler.send_header("Content-Type", "text/plain" if isinstance(content, str) else "application/json")
                handler.send_header("Content-Length", str(len(text.encode())))
                handler.end_headers()
                handler.wfile.write(text.encode())

            do_GET = do_POST = do_DELETE = answer  # noqa: N815 (http.server's names)

            def log_message(handler, *_) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{self.server.server_port}"
        self.kubeconfig = state / "kubeconfig"
        here = {"clusters": [{"name": "here", "cluster": {"server": address}}], "users": [{"name": "me", "user": {}}]}
        here |= {"contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}]}
        self.kubeconfig.write_text(json.dumps(here | {"current-context": "here", "apiVersion": "v1", "kind": "Config"}))

    def stop(self) -> None:
        self.server.shutdown()
        for process, _ in self.pods.values():
            process.kill()

    def answer(self, method: str, path: str, query: dict, body: dict | None) -> tuple[int, dict | str]:
        kind, _, rest = re.fullmatch(r"/(?:api/v1|apis/batch/v1)/namespaces/default/(\w+)(/?)(.*)", path).groups()
        name = rest.partition("/")[0]
        with self.lock:
            if self.away > 0:
                self.away -= 1
                return 503, {"kind": "Status", "message": "away"}
            if (kind, method) == ("jobs", "POST"):
                if reason := self.refusal(body):
                    return 422, {"kind": "Status", "message": reason}
                return 201, self.begin(body)
            if method == "DELETE":
                return 200, {}
            if kind == "jobs" and not name:
                key, _, value = query["labelSelector"][0].partition("=")
                jobs = [job for job in self.made if job["metadata"]["labels"].get(key) == value]
                return 200, {"items": [job | self.status(job["metadata"]["name"]) for job in jobs]}
            if kind == "jobs":
                return 200, self.status(name)
            if name:  # a pod's log
                return 200, self.pods[name.removesuffix("-pod")][1].read_text()
            job = query["labelSelector"][0].removeprefix("job-name=")
            return 200, {"items": [{"metadata": {"name": f"{job}-pod"}}]}

    def status(self, name: str) -> dict:
        code = self.pods[name][0].poll()
        return {"status": {} if code is None else {"failed" if code else "succeeded": 1}}

    def refusal(self, job: dict) -> str | None:
        spec = job["spec"]["template"]["spec"]
        volumes = {v["name"]: v for v in spec["volumes"]}
        for volume in volumes.values():
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            if claim and claim not in CLAIMS:
                return f'persistentvolumeclaim "{claim}" not found'
        [container] = spec["containers"]
        asked = container["resources"]
        for resource, amount in asked["requests"].items():
            if "/" in resource and asked.get("limits", {}).get(resource) != amount:
                return f"spec.containers[0].resources.limits: Required value: Limit must be set for {resource}"
        mounted = [m["name"] for m in container["volumeMounts"] if m["name"] not in volumes]
        return f"volumeMounts: Not found: {mounted}" if mounted else None

    def begin(self, job: dict) -> dict:
        [container] = job["spec"]["template"]["spec"]["containers"]
        name = f"{job['metadata']['generateName']}{len(self.jobs)}"
        log = self.state / f"{name}.log"
        environment = {key: os.environ[key] for key in ("PATH", "HOME")}
        with log.open("w") as stream:
            process = subprocess.Popen(
                container["command"],
                cwd=container["workingDir"],
                env=environment,
                stdout=stream,
                stderr=stream,
            )
        self.jobs.append(job["spec"])
        self.pods[name] = (process, log)
        self.made.append({**job, "metadata": {**job["metadata"], "name": name}})
        return self.made[-1]
