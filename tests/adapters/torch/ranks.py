"""The program that conftest.py starts: ``python ranks.py FILE FOLDER PLAN``.

The plan is JSON: for each size of a group, of each test by its label the function's name, and which of the values of
each parametrized argument it is called with: ``{"2": {"test_it[b-2]": ["test_it", {"letter": 1}]}}``.

It loads the file once, then forks each group of ranks in turn, and each rank writes its complaints into the folder. A
process in which a test raises an exception ends, and with it the group.
"""

import functools
import json
import os
import runpy
import sys
import traceback
from datetime import timedelta
from pathlib import Path

from _pytest.mark import ParameterSet

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


def _called(test, given):
    """A test with the arguments that it is parametrized by."""
    values = dict(mark.args for mark in getattr(test, "pytestmark", ()) if mark.name == "parametrize")
    chosen = {argument: values[argument][number] for argument, number in given.items()}
    plain = {name: one.values[0] if isinstance(one, ParameterSet) else one for name, one in chosen.items()}
    return functools.partial(test, **plain)


def main(file, folder, plan):
    """The program: a group that fails does not keep the next from running."""
    import torch.multiprocessing as processes

    found = runpy.run_path(file)  # with all that the tests import, before the fork
    for world, names in json.loads(plan).items():
        arguments = (
            int(world),
            Path(folder),
            {label: _called(found[name], given) for label, (name, given) in names.items()},
        )
        try:
            processes.start_processes(_run, arguments, nprocs=int(world), start_method="fork")
        except Exception:
            traceback.print_exc()


if __name__ == "__main__":
    main(*sys.argv[1:])
