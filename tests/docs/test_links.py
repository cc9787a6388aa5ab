"""Every link between the documents leads to a file of the repository, and to a heading of it."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / room / "README.md" for room in ("benchmarks", "examples", "tests")),
    ]
)


def prose(text):
    """A document without its code."""
    text = re.sub(r"^(`{3,}).*?^\1[ \t]*$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", lambda code: re.sub(r"[()\[\]]", "", code[0]), text)


def headings(text):
    """The anchors of a document's headings, as GitHub and Python-Markdown both make them."""
    found = re.findall(r"^#{1,6} +(.+)$", re.sub(r"^(`{3,}).*?^\1[ \t]*$", "", text, flags=re.M | re.S), re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in found}


def broken(document, text):
    """The links of a document that lead nowhere."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(text)):
        if re.match(r"\w+:", target):
            continue
        place, _, anchor = target.partition("#")
        there = (document.parent / place).resolve() if place else document
        found = there.is_relative_to(ROOT) and there.exists()
        if not found or (anchor and anchor not in headings(there.read_text("utf-8"))):
            yield target


def test_every_link_leads_somewhere():
    wrong = {}
    for document in DOCUMENTS:
        if found := list(broken(document, document.read_text("utf-8"))):
            wrong[document.relative_to(ROOT).as_posix()] = found
    assert not wrong
    assert len(DOCUMENTS) > 20


def test_the_check_of_links_can_fail():
    text = (
        "# One\n[a](README.md) [b](nothing.md) [c](README.md#nothing) [d](#one) [e](#two) `[f](code.md)` [g](../out.md)"
    )
    assert list(broken(ROOT / "README.md", text)) == ["nothing.md", "README.md#nothing", "#one", "#two", "../out.md"]
