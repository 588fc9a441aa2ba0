"""A Slurm cluster of one node on this machine: real daemons, with all their files in one folder.

It needs Debian's packages slurm-wlm and munge, and does not touch the machine's own Slurm.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

_PATHS = "/usr/sbin", "/sbin"  # where Debian puts daemons
_START = 60.0  # seconds until a daemon answers
_CONF = """
ClusterName=sharp
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# cred_expire is also how long a requeued job waits, by default two minutes.
AuthInfo=cred_expire=5,socket={folder}/munge.socket
CredType=cred/munge
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
# A container may have no control groups to write to.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
KillWait=5
MinJobAge=300
NodeName={host} NodeAddr=127.0.0.1 CPUs={processors} RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


@contextlib.contextmanager
def cluster(folder: Path, processors: int = 2) -> Iterator[dict[str, str]]:
    """Start munged, slurmctld and slurmd; gives the environment for Slurm's commands.

    `RuntimeError` with the end of its log if a daemon is missing or does not start.
    """
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)  # munged refuses a socket that not everybody reaches
    host = socket.gethostname().partition(".")[0]
    text = _CONF.format(
        host=host,
        user=getpass.getuser(),
        folder=folder,
        ports=_free_ports(2),
        processors=processors,
    )
    (folder / "slurm.conf").write_text(text, "utf-8")
    if _version() >= 23:  # earlier ones have no such plugin, and use none with linuxproc
        (folder / "cgroup.conf").write_text("CgroupPlugin=disabled\n", "utf-8")
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    daemons: list[subprocess.Popen[bytes]] = []

    def start(name: str, *arguments: str) -> None:
        with (folder / f"{name}.out").open("wb") as out:
            daemons.append(
                subprocess.Popen(
                    [_daemon(name), *arguments], env=environment, stdout=out, stderr=out
                )
            )

    try:
        start(
            "munged",
            "--foreground",
            "--force",
            f"--key-file={key}",
            f"--socket={folder}/munge.socket",
            f"--pid-file={folder}/munged.pid",
            f"--log-file={folder}/munged.log",
            f"--seed-file={folder}/munged.seed",
        )
        _wait(folder, "munged", daemons[-1], lambda: (folder / "munge.socket").exists())
        start("slurmctld", "-D", "-i")
        _wait(folder, "slurmctld", daemons[-1], lambda: _answers(environment, "ping", "UP"))
        start("slurmd", "-D", "-N", host)
        state = ("show", "node", host)
        _wait(folder, "slurmd", daemons[-1], lambda: _answers(environment, state, "State=IDLE"))
        yield environment
    finally:
        scancel = ["scancel", "--quiet", f"--user={getpass.getuser()}"]
        for options in (["--signal=KILL"], []):
            subprocess.run([*scancel, *options], env=environment, check=False, capture_output=True)
        until = time.monotonic() + 10
        while _queue(environment) and time.monotonic() < until:
            time.sleep(0.2)
        for daemon in reversed(daemons):
            daemon.terminate()
            try:
                daemon.wait(15)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _queue(environment: dict[str, str]) -> str:
    done = subprocess.run(
        ["squeue", "--noheader"], env=environment, capture_output=True, text=True, check=False
    )
    return done.stdout


def _daemon(name: str) -> str:
    path = os.pathsep.join([os.environ.get("PATH", ""), *_PATHS])
    found = shutil.which(name, path=path)
    if found is None:
        raise RuntimeError(f"{name} is missing: apt install slurm-wlm munge")
    return found


def _version() -> int:
    """Slurm's first number: 22 of `slurm-wlm 22.05.8`."""
    said = subprocess.run([_daemon("slurmctld"), "-V"], capture_output=True, text=True, check=True)
    return int(said.stdout.split()[-1].partition(".")[0])


def _answers(environment: dict[str, str], command: str | Sequence[str], wanted: str) -> bool:
    words = [command] if isinstance(command, str) else command
    done = subprocess.run(
        ["scontrol", *words], env=environment, capture_output=True, text=True, check=False
    )
    return wanted in done.stdout


def _wait(folder: Path, name: str, daemon: subprocess.Popen[bytes], ready) -> None:
    until = time.monotonic() + _START
    while not ready():
        if daemon.poll() is not None or time.monotonic() > until:
            logs = [folder / f"{name}.out", folder / f"{name}.log"]
            said = "\n".join(log.read_text("utf-8")[-2000:] for log in logs if log.exists())
            raise RuntimeError(f"{name} does not start:\n{said}")
        time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
