"""The program that test_code_blocks.py starts: ``python pasting.py PACKAGE...``.

It imports the packages, once. For each folder that it reads, a line each, it forks a process that runs pasted.py there,
with its output in the files `stdout` and `stderr`, and answers with the exit status. So a block begins as in a process
of its own, but need not wait for the import.
"""

import importlib
import os
import runpy
import sys
from pathlib import Path


def run(folder):
    """In the forked process: the block, as `python pasted.py` runs it."""
    os.chdir(folder)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), number)
    sys.argv, sys.path[0] = ["pasted.py"], str(folder)
    runpy.run_path("pasted.py", run_name="__main__")


def main(packages):
    """Answers until there are no more folders; a forked process leaves by its end."""
    for package in packages:
        importlib.import_module(package)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            return run(Path(line.strip()))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
