"""Speed, measured against loops written by hand: `python -m tests.benchmarks`."""
