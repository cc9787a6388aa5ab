"""Research tools, each run from the root of the checkout: ``python -m tools.floors``."""
