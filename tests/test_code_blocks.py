"""The documents: every block of Python runs as it is pasted, in a process of its own, and every command exists.

A block of text right below one of Python is what that prints.
"""

import functools
import importlib.util
import itertools
import os
import queue
import re
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "benchmarks/README.md",
    ROOT / "examples/README.md",
]
FENCE = re.compile(r"^(`{3,})[ \t]*([\w+-]*)[^\n]*\n(.*?)^\1[ \t]*$", re.MULTILINE | re.DOTALL)
# What a block may import that is not everywhere, by the name of the package.
PACKAGES = ("torch", "transformers", "keras", "jax", "flax", "optax", "numba", "tensorflow", "mlxtend", "sklearn")
AT_ONCE = 2
# What most blocks import, which takes longer than they do: imported once for all of them.
HEAVY = ("torch", "transformers.modeling_utils", "torch.distributed.fsdp", "torch.distributed.checkpoint")
# Documents whose blocks start processes of their own, train, or import frameworks that other documents' blocks have
# in processes of their own: run by `make test-long`.
LONG = ("docs/tutorials/", "docs/how-to/another-mesh.md", "docs/keras.md")


def blocks(text, language="python"):
    """The blocks of one language in a document: the line they begin at, and the program."""
    return {text.count("\n", 0, match.start(3)) + 1: match[3] for match in FENCE.finditer(text) if match[2] == language}


def imported(program):
    """The packages of frameworks that a program imports, itself or by an adapter."""
    lines = re.findall(r"^(?:import|from) (?:fastinit\.adapters(?:\.| import ))?(\w+)", program, re.MULTILINE)
    return set(lines) & set(PACKAGES)


@functools.cache
def missing():
    """The packages that are not here."""
    return {name for name in PACKAGES if importlib.util.find_spec(name) is None}


BLOCKS = {
    f"{document.relative_to(ROOT).as_posix()}:{line}": program
    for document in DOCUMENTS
    for line, program in blocks(document.read_text()).items()
}


def printed(text):
    """What blocks of Python print, where a document shows it: by the line that the block begins at."""
    found = list(FENCE.finditer(text))
    return {
        text.count("\n", 0, block.start(3)) + 1: output[3]
        for block, output in itertools.pairwise(found)
        if (block[2], output[2]) == ("python", "text") and not text[block.end() : output.start()].strip()
    }


PRINTED = {
    f"{document.relative_to(ROOT).as_posix()}:{line}": output
    for document in DOCUMENTS
    for line, output in printed(document.read_text()).items()
}


def environment(folder):
    """What blocks run in: Keras's quickest backend, nothing fetched, nothing written in the user's home."""
    given = {name: value for name, value in os.environ.items() if not name.startswith(("FASTINIT_", "PYTHON"))}
    return given | {
        **{"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "FASTINIT_NUM_THREADS": "2"},
        **{"KERAS_BACKEND": "jax", "KERAS_HOME": str(folder), "TF_CPP_MIN_LOG_LEVEL": "3"},
        **{"HF_HUB_OFFLINE": "1", "JAX_PLATFORMS": "cpu", "PYTHONFAULTHANDLER": "1", "PYTHONDONTWRITEBYTECODE": "1"},
    }


class Pasting:
    """A process that has imported packages, and forks one for each block: see pasting.py."""

    def __init__(self, folder, packages):
        command = [sys.executable, str(Path(__file__).with_name("pasting.py")), *packages]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, cwd=folder, env=environment(folder), **pipes)

    def run(self, folder):
        """What the block in a folder gave."""
        print(folder, file=self.process.stdin, flush=True)
        code = self.process.stdout.readline()
        output = [(folder / name).read_text() for name in ("stdout", "stderr")]
        return subprocess.CompletedProcess("pasted.py", int(code), *output)

    def end(self):
        """Waits for it."""
        self.process.communicate()


@pytest.fixture(scope="module")
def paste(tmp_path_factory):
    """paste(program): what running it in a new file in an empty folder gives."""
    at_rest = queue.SimpleQueue()  # processes that have imported torch, which most blocks need

    def run(program):
        folder = tmp_path_factory.mktemp("pasted")
        (folder / "pasted.py").write_text(program)
        if hasattr(os, "fork") and imported(program) <= {"torch", "transformers"} and "torch" in imported(program):
            try:
                process = at_rest.get_nowait()
            except queue.Empty:
                process = Pasting(folder, [name for name in HEAVY if name.partition(".")[0] not in missing()])
            done = process.run(folder)
            at_rest.put(process)
            return done
        simulated = {"NUMBA_ENABLE_CUDASIM": "1"} if "from numba import cuda" in program else {}
        return subprocess.run(
            [sys.executable, "pasted.py"],
            cwd=folder,
            env=environment(folder) | simulated,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    yield run
    while not at_rest.empty():
        at_rest.get().end()


@pytest.fixture(scope="module")
def pasted(paste, request):
    """What each block gave that is asked for: all are started at once, and few run at a time."""
    asked = {item.callspec.params.get("place") for item in request.session.items if hasattr(item, "callspec")}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {
            place: pool.submit(paste, program)
            for place, program in BLOCKS.items()
            if place in asked and not imported(program) & missing()
        }


@pytest.mark.parametrize(
    "place", [pytest.param(place, marks=[pytest.mark.long] * place.startswith(LONG)) for place in BLOCKS]
)
def test_a_block_runs_as_it_is_pasted(place, pasted):
    if place not in pasted:
        pytest.skip(f"needs {', '.join(sorted(imported(BLOCKS[place])))}")
    done = pasted[place].result()
    assert done.returncode == 0, f"{place}\n{done.stdout}{done.stderr}"
    assert "Warning" not in done.stderr, f"{place}\n{done.stderr}"
    assert done.stdout == PRINTED.get(place, done.stdout), place


def test_every_block_of_python_was_found():
    indented = [
        f"{document.name}:{number}"
        for document in DOCUMENTS
        for number, line in enumerate(document.read_text().splitlines(), 1)
        if re.match(r"\s+(?:>>> |import \w|from \w+ import |def \w+\()", line) and not inside_a_fence(document, number)
    ]
    assert not indented  # Python without a fence would never be run
    languages = {match[2] for document in DOCUMENTS for match in FENCE.finditer(document.read_text())}
    assert languages <= {"python", "text"}
    assert sum(place.startswith("README.md") for place in BLOCKS) == 2
    assert len(BLOCKS) > 30
    assert all((ROOT / name).exists() for name in LONG)
    assert sum(not place.startswith(LONG) for place in BLOCKS) > 25


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) <= 600


def inside_a_fence(document, number):
    text = document.read_text()
    return any(
        text.count("\n", 0, match.start()) < number <= text.count("\n", 0, match.end()) + 1
        for match in FENCE.finditer(text)
    )


def test_the_check_of_blocks_can_fail(paste):
    text = (
        "Words.\n\n```python\nimport numpy as np\nnp.empty(3)\n```\n\n```text\n1 / 0\n```\n\n```python\nweight + 1\n```"
    )
    (first, good), (second, bad) = blocks(text).items()
    assert (first, second) == (4, 13)
    assert printed(text) == {4: "1 / 0\n"} and len(PRINTED) >= 7 and set(PRINTED) <= set(BLOCKS)
    assert paste(good).returncode == 0
    failures = [paste(bad)]
    if "torch" not in missing():
        forked = "import torch\nprint(torch.ones(2).sum().item())\n"
        done = paste(forked)
        assert (done.returncode, done.stdout, done.stderr) == (0, "2.0\n", "")
        failures.append(paste(forked + bad))
    for failed in failures:
        assert failed.returncode == 1 and "NameError: name 'weight' is not defined" in failed.stderr


# Commands: indented lines, as the documents write them, and lines after a prompt


def commands(text):
    """The commands of a document, without their comments."""
    outside = FENCE.sub("", text)
    for line in re.findall(r"^\$ (.+)$", text, re.MULTILINE):
        one = re.sub(r"\$\w+", "1", line)  # of a loop of the shell
        yield from (shlex.split(command) for command in re.findall(r"\b(?:make|fastinit) [^;&|]+", one))
    for line in re.findall(r"^    (?! )(.+)$", outside, re.MULTILINE):
        if re.match(r"(?:make|fastinit|python|asv|\.venv/bin/\S+|[A-Z_]+=\S+ \S+)\s", line):
            yield shlex.split(line, comments=True)
    yield from (shlex.split(code) for code in re.findall(r"`((?:make|fastinit|python) [^`]+)`", outside))


COMMANDS = sorted({tuple(command) for document in DOCUMENTS for command in commands(document.read_text())})


def problem(command):
    """What is wrong with a command: a target, a module, a file or an option that does not exist; None if nothing is."""
    words = [word for word in command if not re.match(r"[A-Z_]+=", word)]
    program, *rest = words
    program = program.removeprefix(".venv/bin/")
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return next((f"no target {word}" for word in rest if not word.startswith("-") and word not in targets), None)
    if program == "python" and rest[0] == "-m":
        place = ROOT / rest[1].replace(".", "/")
        if rest[1] in ("pip", "venv", "fastinit"):
            return None
        return None if place.with_suffix(".py").exists() or (place / "__main__.py").exists() else f"no module {rest[1]}"
    if program == "python":
        return None if (ROOT / rest[0]).exists() else f"no file {rest[0]}"
    if program == "fastinit":
        from fastinit import cli

        try:
            cli._parser().parse_args(rest)
        except SystemExit as stop:
            return f"the command line stops with {stop.code}"
    return None


def test_every_command_exists():
    wrong = {" ".join(command): found for command in COMMANDS if (found := problem(command))}
    assert not wrong
    assert len(COMMANDS) > 20


def test_the_check_of_commands_can_fail():
    text = "    make demoo\n    python -m benchmarks.nothing --all   # words\n    python examples/nothing.py\n"
    text += "```text\n$ for k in 1 2; do fastinit verify --nothing out & done; wait\nmake nothing\n```\n"
    assert [problem(command) for command in commands(text)] == [
        "the command line stops with 2",
        "no target demoo",
        "no module benchmarks.nothing",
        "no file examples/nothing.py",
    ]
