"""Runs functions of another file in real gloo processes, all in one process group, which takes seconds to start.

``outcomes(file, world, names, directory)`` starts this file as a program, which loads torch once and forks `world`
processes. Each runs the named functions in turn, as ``check(rank, world)``, and writes what they yield: complaints, and
none where all is well. Checks only complain, so no rank waits for one that gave up; a process in which one raises an
exception ends, and with it the group.
"""

import contextlib
import json
import os
import runpy
import signal
import subprocess
import sys
import traceback
from datetime import timedelta
from pathlib import Path

SECONDS = 180  # the hard limit of a whole group
PATIENCE = timedelta(seconds=60)  # of one rank for the others, on a busy machine


def outcomes(file, world, names, directory):
    """The complaints of all ranks about each check, by name; a check that did not end is one too."""
    inherited = ("MASTER_", "TORCHELASTIC_", "RANK", "WORLD_SIZE", "LOCAL_RANK", "PYTHONPATH", "PYTHONWARNINGS")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(inherited)}
    if sys.platform == "linux":
        environment["GLOO_SOCKET_IFNAME"] = "lo"  # whatever the machine's name resolves to
    command = [sys.executable, __file__, str(file), str(world), str(directory), *names]
    with (
        (directory / "output").open("w+") as output,
        subprocess.Popen(
            command, env=environment, cwd=directory, stdout=output, stderr=output, start_new_session=True
        ) as program,
    ):
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                program.wait(SECONDS)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)  # whoever is left
        output.seek(0)
        said = output.read()[-2000:]
    found = {name: [] for name in names}
    for rank in range(world):
        path = directory / f"rank{rank}"
        ended = dict(map(json.loads, path.read_text().splitlines())) if path.exists() else {}
        for name in names:
            found[name] += [f"rank {rank}: {complaint}" for complaint in ended.get(name, ["did not end, see output"])]
    return found, said


def _run(rank, world, directory, checks):
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{directory}/meeting", rank=rank, world_size=world, timeout=PATIENCE
    )
    with (directory / f"rank{rank}").open("w", buffering=1) as out:
        for name, check in checks.items():
            try:
                complaints = list(check(rank, world))
                dist.barrier()
            except BaseException:
                print(json.dumps((name, [traceback.format_exc()])), file=out)
                os._exit(1)
            print(json.dumps((name, complaints[:5])), file=out)
    dist.destroy_process_group()


def main(file, world, directory, *names):
    """The program: forks the processes and waits for them."""
    import torch.multiprocessing as processes

    found = runpy.run_path(file)  # with all that the checks import, before the fork
    arguments = (int(world), Path(directory), {name: found[name] for name in names})
    processes.start_processes(_run, arguments, nprocs=int(world), start_method="fork")


if __name__ == "__main__":
    main(*sys.argv[1:])
