"""Research tools, run from the root of the checkout: ``python -m tools.floors``, ``.cycles``, ``.rehearsal``."""
