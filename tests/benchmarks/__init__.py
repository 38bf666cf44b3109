"""Speed, measured as ratios within one run. Not tests: `make bench`, or `python -m tests.benchmarks.NAME --json`."""
