"""The benchmarks of fastinit: an asv suite (``bench_*.py``) and the table of figures (``figures.py``)."""
