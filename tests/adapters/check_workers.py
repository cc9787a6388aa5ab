"""Runs the checks of files in a process of their own, with an environment of its own.

Keras has one backend in a process, JAX one number of devices, and neither goes well with processes that fork.

``outcomes(files, directory, **environment)`` starts this file as a program. It runs every function of the files whose
name begins with ``check_``, and writes what it raises: nothing where all is well. A check with an argument gets a
directory.
"""

import inspect
import json
import os
import runpy
import subprocess
import sys
import traceback
import warnings
from pathlib import Path

SECONDS = 420


def names(files):
    """The checks of the files, by the text of their definitions: nothing is imported."""
    found = []
    for file in files:
        lines = Path(file).read_text().splitlines()
        found += [line[4:].split("(")[0] for line in lines if line.startswith("def check_")]
    return found


def outcomes(files, directory, **environment):
    """The traceback of each check that failed, by name, None of one that did not; and what the process printed."""
    given = {name: value for name, value in os.environ.items() if not name.startswith(("FASTINIT_", "PYTHONPATH"))}
    given |= {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_HOME": str(directory), **environment}
    command = [sys.executable, __file__, str(directory), *map(str, files)]
    done = subprocess.run(
        command, env=given, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=SECONDS, check=False,
    )  # fmt: skip
    path = Path(directory) / "outcomes"
    lines = path.read_text().splitlines() if path.exists() else []
    return dict.fromkeys(names(files), "did not run") | dict(map(json.loads, lines)), done.stdout[-3000:]


def main(directory, *files):
    """The program."""
    warnings.filterwarnings("error", module=r"fastinit|test_\w+")  # the frameworks' own are not ours to mend
    with (Path(directory) / "outcomes").open("w", buffering=1) as out:
        for file in files:
            for name, check in runpy.run_path(file).items():
                if not name.startswith("check_"):
                    continue
                if "keras" in sys.modules:  # whose state is the process's
                    sys.modules["keras"].utils.clear_session()
                    sys.modules["keras"].config.set_floatx("float32")
                failure = None
                try:
                    check(Path(directory)) if inspect.signature(check).parameters else check()
                except BaseException:
                    failure = traceback.format_exc()
                print(json.dumps((name, failure)), file=out)


if __name__ == "__main__":
    main(*sys.argv[1:])
