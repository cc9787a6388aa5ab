"""The benchmarks of fastinit: the asv suite (``bench_*.py``), the table of rows (``race/``) and the dashboard."""
