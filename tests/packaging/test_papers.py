"""The papers beside the code: versions agree, and the workflows are pinned, have few rights, and call what exists."""

import re
from pathlib import Path

import pytest

import fastinit

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
WRITING = {  # which job may write what
    "wheels": {"id-token: write"},
    "docs": {"pages: write", "id-token: write"},
}


@pytest.mark.parametrize(
    ("paper", "line"), [("CITATION.cff", r"^version: (\S+)$"), ("recipe/recipe.yaml", r'^  version: "([^"]+)"$')]
)
def test_papers_have_the_version(paper, line):
    assert re.findall(line, (ROOT / paper).read_text(), re.MULTILINE) == [fastinit.__version__]


def test_the_changelog_has_the_version_or_what_is_not_released():
    first = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert first[1] in ("Unreleased", fastinit.__version__)


def test_the_recipe_asks_for_what_the_project_asks_for():
    project, recipe = (ROOT / "pyproject.toml").read_text(), (ROOT / "recipe/recipe.yaml").read_text()
    for name in re.findall(r'"([^"]+)"', re.search(r"^requires = \[(.*)\]$", project, re.MULTILINE)[1]):
        assert f"    - {name.replace('>=', ' >=')}\n" in recipe, name
    assert f"    - numpy {re.search(r'dependencies = ..numpy(.+?).]', project)[1]}\n" in recipe


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.stem)
def workflow(request):
    return request.param


def test_actions_are_pinned_by_commit(workflow):
    used = re.findall(r"uses: (.+)", workflow.read_text())
    assert used
    for line in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line


def test_workflows_have_no_rights_but_those_of_their_jobs(workflow):
    text = workflow.read_text()
    assert re.search(r"^permissions: \{\}$", text, re.MULTILINE)
    assert set(re.findall(r"[\w-]+: write", text)) == WRITING.get(workflow.stem, set())
    assert "pull_request_target" not in text and "secrets." not in text
    assert text.count("actions/checkout@") == text.count("persist-credentials: false")


def test_workflows_call_what_exists(workflow):
    text = workflow.read_text()
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for name in re.findall(r"\bmake ([a-z-]+)", text):
        assert name in targets, name
    for name in re.findall(r"(?<![\w/.])((?:tools|tests|\.ci)/[\w./*]+)", text):
        assert list(ROOT.glob(name)), name


def test_wheels_are_tested_with_files_that_exist():
    text = (ROOT / "pyproject.toml").read_text()
    files = re.search(r'^test-command = "(.+)"$', text, re.MULTILINE)[1].split()[4:]
    assert len(files) > 2
    for name in files:
        assert (ROOT / name).exists(), name
