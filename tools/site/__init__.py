"""What turns `docs/` into a site: ``make docs`` runs MkDocs with `mkdocs.yml`, `pages.py` and `reference.py`.

mkdocs.yml     the pages in their order, the theme, the options of the reference
pages.py       documents from outside `docs/`, links between them, what the search leaves out, llms.txt
reference.py   docstrings as Markdown; those that code makes
numpydoc.py    reStructuredText of a docstring to Markdown
theme/         styles
"""
