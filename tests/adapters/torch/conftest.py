"""Tests on several ranks: ``@pytest.mark.ranks(2, 4)`` runs a test in a group of 2 real gloo processes, and of 4.

The largest group of at most 4 is for `make test`, the others are for `make test-long`. With
``@pytest.mark.parametrize("door", DOORS)``, of one argument each, it is a test for each combination; one of the values
may be a ``pytest.param`` that is marked long. It may have a ``@pytest.mark.skipif`` with a condition that is a bool.

Such a test is a generator ``test(rank, world)`` that every rank runs. It yields complaints, and none where all is well:
a rank that raised would leave the others waiting. The tests of a file share their groups, which take seconds to start.
"""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

USUAL = 4
SECONDS = 300  # the hard limit of all groups of a file
INHERITED = ("MASTER_", "TORCHELASTIC_", "RANK", "WORLD_SIZE", "LOCAL_RANK", "PYTHONPATH", "PYTHONWARNINGS")
OUTCOMES = pytest.StashKey[dict]()


def pytest_pycollect_makeitem(collector, name, obj):
    """Makes a test for each size of a group."""
    worlds = [mark.args for mark in getattr(obj, "pytestmark", []) if mark.name == "ranks"]
    if not worlds:
        return None
    marks = [mark.args for mark in obj.pytestmark if mark.name == "parametrize"]
    # as pytest.param or plain: the value, and whether it is for the long tests
    marks = [
        (
            argument,
            [(one.values[0], bool(one.marks)) if isinstance(one, ParameterSet) else (one, False) for one in values],
        )
        for argument, values in marks
    ]
    found = []
    left_out = [mark.kwargs["reason"] for mark in obj.pytestmark if mark.name == "skipif" and mark.args[0]]
    usual = max((world for world in worlds[0] if world <= USUAL), default=None)
    for world in worlds[0]:
        for chosen in itertools.product(*(range(len(values)) for _, values in marks)):
            given = [values[one] for (_, values), one in zip(marks, chosen, strict=True)]
            label = "-".join([*(str(value) for value, _ in given), str(world)])
            arguments = {argument: one for (argument, _), one in zip(marks, chosen, strict=True)}
            made = OnRanks.from_parent(
                collector,
                name=f"{name}[{label}]",
                test=name,
                world=world,
                arguments=arguments,
                left_out="; ".join(left_out),
            )
            if world != usual or any(is_long for _, is_long in given):
                made.add_marker("long")
            found.append(made)
    return found


class Complaints(Exception):
    """What the ranks yielded, and what they printed."""


class OnRanks(pytest.Item):
    """A test on a number of ranks."""

    def __init__(self, *, test, world, arguments, left_out, **options):
        super().__init__(**options)
        self.test, self.world, self.arguments, self.left_out = test, world, arguments, left_out

    def runtest(self):
        """Runs this file's groups, unless another test has done so."""
        import torch

        if self.left_out:
            pytest.skip(self.left_out)
        if not hasattr(torch.distributed, "ProcessGroupGloo") or sys.platform == "win32":
            pytest.skip("needs gloo, and fork")
        known = self.config.stash.setdefault(OUTCOMES, {})
        if self.path not in known:
            plan = {}
            for item in self.session.items:
                if isinstance(item, OnRanks) and item.path == self.path and not item.left_out:
                    plan.setdefault(item.world, {})[item.name] = item.test, item.arguments
            known[self.path] = outcomes(self.path, plan)
        found, printed = known[self.path]
        if complaints := found[self.world, self.name]:
            raise Complaints("\n".join([*complaints, *printed.splitlines()]))

    def repr_failure(self, excinfo):
        """The complaints alone: the traceback of this file says nothing."""
        return str(excinfo.value) if excinfo.errisinstance(Complaints) else super().repr_failure(excinfo)

    def reportinfo(self):
        """Where the test is written."""
        return self.path, getattr(self.parent.obj, self.test).__code__.co_firstlineno - 1, self.name


def outcomes(file, plan):
    """The complaints of all ranks, by size of the group and test, and the last of what they printed.

    A test that a rank did not end is a complaint, too.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(INHERITED)}
    if sys.platform == "linux":
        environment["GLOO_SOCKET_IFNAME"] = "lo"  # whatever the machine's name resolves to
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, Path(folder, "output").open("w+") as output:
        command = [sys.executable, str(Path(__file__).with_name("ranks.py")), str(file), folder, json.dumps(plan)]
        program = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=output, stderr=output, start_new_session=True
        )
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                program.wait(SECONDS)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)  # every rank that is left
            program.wait()
        found = {}
        for world, tests in plan.items():
            for rank in range(world):
                path = Path(folder, f"{rank}-of-{world}")
                ended = dict(map(json.loads, path.read_text().splitlines())) if path.exists() else {}
                for test in tests:
                    complaints = ended.get(test, ["did not end; the output follows"])
                    found.setdefault((world, test), []).extend(f"rank {rank}: {complaint}" for complaint in complaints)
        output.seek(0)
        return found, output.read()[-2000:]
