"""Hooks of MkDocs: documents from outside ``docs/``, links between them, exclusions from the search, ``llms.txt``."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "build" / "reference"
# Documents from outside docs/, and their pages.
PROJECT = {
    "README.md": "index.md",
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "tests/README.md": "project/tests.md",
    "examples/README.md": "project/examples.md",
    "benchmarks/README.md": "project/benchmarks.md",
}
# Tables of thousands of rows, which would fill most of the search's index.
UNSEARCHED = ("zoo.md", "zoo-keras.md", "race.md", "race-zen3.md", "stream-v1-coefficients.md")
ALONE = ("index.md", "start.md")  # without a navigation beside them
LINK = re.compile(r"(\]\()([^)\s:#]+)((?:#[^)\s]*)?\))")
SUMMARIES: dict[str, tuple[str, str]] = {}


def on_startup(**_: Any) -> None:
    """Copies the sources before mkdocstrings looks for its paths."""
    copy_sources()


def on_config(config: Any) -> Any:
    """Copies the sources again, because `make docs-serve` rebuilds at every change."""
    copy_sources()
    return config


def copy_sources() -> None:
    """Copies the package's sources to their installed locations, for griffe to read."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))  # for tools.site.reference
    listed = subprocess.run(
        [sys.executable, ROOT / "tools/list_sources.py"], capture_output=True, text=True, check=True
    )
    shutil.rmtree(SOURCES, ignore_errors=True)
    for name in listed.stdout.split():
        place = SOURCES / ("fastinit" if name.startswith("adapters/") else "") / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, place)
    (SOURCES / "fastinit/adapters/__init__.py").touch()  # when installed it is a namespace package, which griffe skips


def on_files(files: Files, config: Any) -> Files:
    """Adds the documents from outside."""
    for document, page in PROJECT.items():
        files.append(File.generated(config, page, content=(ROOT / document).read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turns links between files of the repository into links between pages, and notes each page's first words."""
    uri = page.file.src_uri
    if uri in UNSEARCHED:
        page.meta["search"] = {"exclude": True}
    if uri in ALONE:
        page.meta["hide"] = ["navigation"]
    SUMMARIES[page.file.dest_uri] = summary(markdown)
    sources = {page: document for document, page in PROJECT.items()}
    here = Path(sources.get(uri, f"docs/{uri}")).parent

    def moved(match: re.Match[str]) -> str:
        target = os.path.normpath(here / match[2])
        there = PROJECT.get(target) or os.path.relpath(target, "docs")
        return f"{match[1]}{os.path.relpath(there, Path(uri).parent)}{match[3]}"

    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else LINK.sub(moved, part) for part in parts)


def summary(markdown: str) -> tuple[str, str]:
    """The title of a page and its first paragraph, in one line."""
    title = re.search(r"^# (.+)$", markdown, re.MULTILINE)
    words = re.search(
        r"^(?![#>|`!\s:<-])(?:.+\n?)+", re.sub(r"^# .+$", "", markdown, count=1, flags=re.MULTILINE), re.MULTILINE
    )
    plain = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", " ".join(words[0].split())) if words else ""
    return (title[1] if title else ""), plain


def on_post_build(config: Any) -> None:
    """Writes ``llms.txt``: every page in the order of the navigation, with its first words."""
    lines = [f"# {config.site_name}", "", f"> {config.site_description}", ""]

    def listed(items: list[Any], room: str) -> None:
        for item in items:
            if isinstance(item, dict):
                for name, inside in item.items():
                    if isinstance(inside, list):
                        lines.extend(["", f"## {name}", ""])
                        listed(inside, name)
                    else:
                        listed([inside], room)
            else:
                place = Path(item).with_suffix(".html").as_posix()
                title, words = SUMMARIES[place]
                lines.append(f"- [{title}]({place}): {words}")

    listed(config.nav, "")
    Path(config.site_dir, "llms.txt").write_text("\n".join(lines) + "\n", "utf-8")
