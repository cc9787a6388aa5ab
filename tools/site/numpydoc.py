"""Converts the reStructuredText of docstrings to Markdown: roles, tables, examples, lists of terms.

The sections of numpydoc (Parameters, Raises, Examples, ...) stay unchanged for griffe.
"""

from __future__ import annotations

import re
from collections.abc import Callable

ROLE = re.compile(r":(?:func|class|meth|mod|data|attr|obj):`([^`]+)`")
RULE = re.compile(r"=+(?: +=+)+")
SECTION = re.compile(r"(?<=\n)(?=\w[\w ]*\n-{4,}\n)")


def markdown(text: str, link: Callable[[str], str]) -> str:
    """A docstring for a page. `link(target)` gives the Markdown of a reference to a name."""
    text = ROLE.sub(lambda role: link(role[1]), text)
    first, *sections = SECTION.split("\n" + text)
    for number, section in enumerate(sections):
        if section.startswith("Notes\n"):
            sections[number] = prose(section)
        elif section.startswith(("Parameters\n", "Attributes\n")):
            sections[number] = apart(section)
    return "".join([prose(first), *sections]).strip("\n")


def apart(section: str) -> str:
    """Splits parameters that share an explanation, because griffe would give all of them the first one's default."""
    made: list[str] = []
    for part in re.split(r"(?<=\n)(?=[\w*])", section):
        head, _, text = part.partition("\n")
        names, colon, kind = head.partition(" : ")
        made += [f"{name}{colon}{kind}\n{text}" for name in names.split(", ")] if text.startswith("    ") else [part]
    return "".join(made)


def prose(text: str) -> str:
    """Tables, bare examples and lists of terms of one part of a docstring."""
    given, made = text.split("\n"), []
    while given:
        line = given[0]
        indent = line[: len(line) - len(line.lstrip())]
        if RULE.fullmatch(line.strip()):
            made += ["", *(indent + row for row in table(given)), ""]
        elif line.lstrip().startswith(">>> "):
            made += ["", f"{indent}```pycon"]
            while given and given[0].strip():
                made.append(given.pop(0))
            made += [f"{indent}```", ""]
        elif is_term(given) and not indent:
            name, _, kind = given.pop(0).partition(" : ")
            words = []
            while given and (given[0].startswith("    ") or not given[0].strip()):
                words.append(given.pop(0).strip())
            made += ["", f"- **{name}**" + (f" ({kind})" if kind else "") + ": " + " ".join(filter(None, words)), ""]
        else:
            made.append(given.pop(0))
    return "\n".join(made)


def is_term(lines: list[str]) -> bool:
    """Whether a term with an indented explanation begins here, outside a section of numpydoc."""
    return bool(
        len(lines) > 1
        and re.fullmatch(r"\w[\w, ]*( : .*)?", lines[0])
        and lines[1].startswith("    ")
        and lines[1].strip()
        and not lines[1].lstrip().startswith(">>> ")
    )


def table(lines: list[str]) -> list[str]:
    """A simple table of reStructuredText, taken from the lines, as one of Markdown."""
    rule = lines.pop(0).strip()
    starts = [match.start() for match in re.finditer("=+", rule)]
    blocks: list[list[list[str]]] = [[]]
    while lines and lines[0].strip():
        line = lines.pop(0)
        if RULE.fullmatch(line.strip()):
            blocks.append([])
            continue
        line = line[len(line) - len(line.lstrip()) :] if line[:1] != " " or not blocks[-1] else line
        cells = [line[a:b].strip().replace("|", "\\|") for a, b in zip(starts, [*starts[1:], None], strict=True)]
        if not cells[0] and blocks[-1]:  # a cell continues on the next line
            blocks[-1][-1] = [f"{before} {more}".strip() for before, more in zip(blocks[-1][-1], cells, strict=True)]
        else:
            blocks[-1].append(cells)
    blocks = [block for block in blocks if block]
    head, rows = (blocks[0], blocks[1]) if len(blocks) == 2 else ([[""] * len(starts)], blocks[0])
    rows = [
        [cell if number or not cell or cell[0] == "`" else f"`{cell}`" for number, cell in enumerate(row)]
        for row in rows
    ]
    return [f"| {' | '.join(row)} |" for row in (*head, ["---"] * len(starts), *rows)]
