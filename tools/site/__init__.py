"""Builds a site from `docs/`: ``make docs`` runs MkDocs with `mkdocs.yml`, `pages.py` and `reference.py`.

mkdocs.yml     the order of the pages, the theme, the options of the reference
pages.py       documents from outside `docs/`, links between them, exclusions from the search, llms.txt
reference.py   docstrings as Markdown, including generated ones
numpydoc.py    conversion of a docstring's reStructuredText to Markdown
theme/         styles
"""
