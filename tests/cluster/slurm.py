"""A real Slurm of two nodes on this machine, as root and without systemd: started, broken and stopped by its pids."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

ETC = Path("/etc/slurm")  # the only place: the plugin's job step drops SLURM_CONF
MARK = "# made by tests/cluster"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "sinfo")
NODES = ("n1", "n2")

# Memory is watched each second and a job above its request is killed (no control groups are needed for that).
CONFIGURATION = f"""{MARK}
ClusterName=lab
SlurmctldHost={{host}}(127.0.0.1)
SlurmctldPort=16817
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={{state}}/munge/s,cred_expire=10
StateSaveLocation={{state}}/state
SlurmdSpoolDir={{state}}/spool.%n
SlurmctldPidFile={{state}}/slurmctld.pid
SlurmdPidFile={{state}}/slurmd.%n.pid
SlurmctldLogFile={{state}}/log/slurmctld.log
SlurmdLogFile={{state}}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=256
EnforcePartLimits=ALL
SchedulerParameters=sched_interval=5,bf_interval=5,batch_sched_delay=0
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/none
ReturnToService=2
SlurmdTimeout=10
KillWait=2
MinJobAge=3600
MailProg=/bin/true
GresTypes=gpu
NodeName=n1 NodeHostname={{host}} NodeAddr=127.0.0.1 Port=17001 CPUs=2 RealMemory=10000 Gres=gpu:2
NodeName=n2 NodeHostname={{host}} NodeAddr=127.0.0.1 Port=17002 CPUs=2 RealMemory=10000
PartitionName=cpu Nodes=n1,n2 Default=YES MaxTime=04:00:00 State=UP
PartitionName=gpu Nodes=n1 MaxTime=04:00:00 State=UP
"""


def missing() -> str | None:
    """Why there can be no Slurm here."""
    if absent := [name for name in PROGRAMS if not shutil.which(name)]:
        packages = "slurmctld slurmd slurm-client munge"
        return f"no {', '.join(absent)}: apt-get install --no-install-recommends {packages}"
    if not find_spec("snakemake_executor_plugin_slurm"):
        return "no plugin: pip install -c envs/lock.txt snakemake-executor-plugin-slurm==2.8.0"
    if os.geteuid() != 0:
        return "slurmctld and slurmd are started as root, which we are not"
    if (ETC / "slurm.conf").exists() and MARK not in (ETC / "slurm.conf").read_text():
        return f"{ETC}/slurm.conf is of another Slurm, which is left alone"
    return None


def until(true: Callable[[], object], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.2)


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def parents() -> dict[int, int]:
    """Process -> its parent, of all that are alive."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text().rsplit(")", 1)[1].split()[:2]
        except (OSError, IndexError):
            continue
        if state != "Z":
            found[int(folder.name)] = int(parent)
    return found


def descendants(process: int) -> list[int]:
    tree, found = parents(), [process]
    for known in found:
        found += [child for child, parent in tree.items() if parent == known]
    return found[1:]


def of_jobs() -> list[int]:
    """Processes of this Slurm's jobs. One that left its job's tree when that was killed for its memory outlives it."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if b"SLURM_CLUSTER_NAME=lab\0" in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found


class Slurm:
    def __init__(self, state: Path):
        self.state = state
        self.daemons: dict[str, int] = {}

    def start(self) -> None:
        for name in ("state", "spool.n1", "spool.n2", "log", "munge"):
            (self.state / name).mkdir(parents=True)
        for number in range(2):  # a fake GPU must be a character device: this is /dev/null
            os.mknod(self.state / f"gpu{number}", 0o666 | 0o020000, os.makedev(1, 3))
        ETC.mkdir(exist_ok=True)
        host = socket.gethostname().split(".")[0]
        (ETC / "slurm.conf").write_text(CONFIGURATION.format(host=host, state=self.state))
        (ETC / "gres.conf").write_text(f"AutoDetect=off\nNodeName=n1 Name=gpu File={self.state}/gpu[0-1]\n")
        (ETC / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
        munge = self.state / "munge"
        (munge / "key").write_bytes(os.urandom(1024))
        (munge / "key").chmod(0o600)
        options = [f"-S{munge}/s"]
        options += [f"--{name}-file={munge}/{name}" for name in ("key", "pid", "log", "seed")]
        output("munged", "--force", *options)
        self._started("munged", munge / "pid")
        self.start_controller()
        for name in NODES:
            self.start_node(name)
        self.ready()

    def _started(self, name: str, pid_file: Path) -> None:
        until(lambda: pid_file.exists() and pid_file.read_text().strip(), 20, f"{name} writes {pid_file}")
        self.daemons[name] = int(pid_file.read_text())

    def start_controller(self) -> None:
        output("slurmctld")
        self._started("slurmctld", self.state / "slurmctld.pid")

    def stop_controller(self) -> None:
        self._end("slurmctld", signal.SIGTERM)

    def start_node(self, name: str) -> None:
        output("nice", "-n", "5", "slurmd", "-N", name)
        self._started(name, self.state / f"slurmd.{name}.pid")

    def kill_node(self, name: str) -> None:
        """The node and all that runs on it are gone at once, as when its power fails."""
        self._kill_all([self.daemons[name], *descendants(self.daemons[name])])
        del self.daemons[name]
        (self.state / f"slurmd.{name}.pid").unlink(missing_ok=True)

    def ready(self) -> None:
        """Both nodes are idle."""

        def idle() -> bool:
            asked = subprocess.run(["sinfo", "-h", "-N", "-p", "cpu", "-o", "%T"], capture_output=True, text=True)
            return asked.stdout.split() == ["idle"] * len(NODES)

        until(idle, 60, "both nodes are idle")

    def jobs(self, form: str, state: str = "all") -> list[list[str]]:
        """squeue's answer: a list of the fields of `form` a job."""
        lines = output("squeue", "--noheader", f"--states={state}", "--sort=i", f"--format={form}").splitlines()
        return [line.split("|") for line in lines]

    def clear(self) -> None:
        """No job is left, and both nodes are back."""
        subprocess.run(["scancel", "--user=root", "--quiet"])
        until(lambda: not output("squeue", "--noheader"), 60, "all jobs end")
        self._kill_all(of_jobs())
        for name in NODES:
            if name not in self.daemons:
                self.start_node(name)
        self.ready()

    def stop(self) -> None:
        if "slurmctld" in self.daemons and "n1" in self.daemons:
            subprocess.run(["scancel", "--user=root", "--quiet"], timeout=30)
            time.sleep(1)
        for name in (*NODES, "slurmctld", "munged"):
            if name in self.daemons:
                self._kill_all(descendants(self.daemons[name]))
                self._end(name, signal.SIGTERM)
        self._kill_all(of_jobs())
        for name in ("slurm.conf", "gres.conf", "cgroup.conf"):
            (ETC / name).unlink(missing_ok=True)

    def _kill_all(self, processes: Iterable[int]) -> None:
        for process in processes:
            self._kill(process, signal.SIGKILL)

    @staticmethod
    def _kill(process: int, how: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(process, how)

    def _end(self, name: str, how: int) -> None:
        """Its pid file goes before it has written its state: the process itself is waited for."""
        process = self.daemons.pop(name)
        self._kill(process, how)
        until(lambda: process not in parents(), 30, f"{name} ends")
