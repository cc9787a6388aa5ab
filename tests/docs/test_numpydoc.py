"""Docstrings as Markdown: what the reference shows of the reStructuredText that they are written in."""

import importlib.util
import inspect
from pathlib import Path

import pytest

import fastinit

SOURCE = Path(__file__).parents[2] / "tools/site/numpydoc.py"
FOUND = importlib.util.spec_from_file_location("numpydoc_of_the_site", SOURCE)
numpydoc = importlib.util.module_from_spec(FOUND)
FOUND.loader.exec_module(numpydoc)
markdown = numpydoc.markdown


def link(target):
    return f"[{target}]"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("See :func:`~fastinit.fill` and ``code``.", "See [~fastinit.fill] and ``code``."),
        ("Words.\n\n>>> 1 + 1\n2\n\nMore.", "Words.\n\n\n```pycon\n>>> 1 + 1\n2\n```\n\n\nMore."),
        ("key : Key\n    The stream,\n    its words.", "- **key** (Key): The stream, its words."),
        (
            "====  =====\nname  value\n====  =====\na     b | c\n      d\n====  =====",
            "| name | value |\n| --- | --- |\n| `a` | b \\| c d |",
        ),
    ],
)
def test_a_docstring_becomes_markdown(text, expected):
    assert markdown(text, link) == expected


def test_parameters_that_share_an_explanation_stand_apart():
    text = "Fills.\n\nParameters\n----------\nlow, high : float\n    Of the interval.\n*rest\n    More.\n\n"
    text += "Examples\n--------\n>>> 1\n1"
    found = markdown(text, link)
    assert "low : float\n    Of the interval.\nhigh : float\n    Of the interval.\n*rest\n    More.\n" in found
    assert found.endswith("Examples\n--------\n>>> 1\n1")  # griffe takes examples as they are


def test_no_public_docstring_keeps_a_role():
    for name in fastinit.__all__:
        text = markdown(inspect.getdoc(getattr(fastinit, name)) or "", link)
        assert ":func:`" not in text and ":class:`" not in text, name
