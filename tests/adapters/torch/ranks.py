"""The program that conftest.py starts: ``python ranks.py FILE FOLDER '{"2": ["test_name"]}'``.

It loads the file once, then forks each group of ranks in turn, and each rank writes its complaints into the folder. A
process in which a test raises an exception ends, and with it the group.
"""

import json
import os
import runpy
import sys
import traceback
from datetime import timedelta
from pathlib import Path

PATIENCE = timedelta(seconds=60)  # of one rank for the others, on a busy machine


def _run(rank, world, folder, tests):
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting-of-{world}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world, timeout=PATIENCE)
    with (folder / f"{rank}-of-{world}").open("w", buffering=1) as out:
        for name, test in tests.items():
            try:
                complaints = list(test(rank, world))
                dist.barrier()
            except BaseException:
                print(json.dumps((name, [traceback.format_exc()])), file=out)
                os._exit(1)
            print(json.dumps((name, complaints[:5])), file=out)
    dist.destroy_process_group()


def main(file, folder, plan):
    """The program: a group that fails does not keep the next from running."""
    import torch.multiprocessing as processes

    found = runpy.run_path(file)  # with all that the tests import, before the fork
    for world, names in json.loads(plan).items():
        arguments = (int(world), Path(folder), {name: found[name] for name in names})
        try:
            processes.start_processes(_run, arguments, nprocs=int(world), start_method="fork")
        except Exception:
            traceback.print_exc()


if __name__ == "__main__":
    main(*sys.argv[1:])
