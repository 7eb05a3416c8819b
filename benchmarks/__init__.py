"""Benchmarks of the SDK and its peers, measured in one run: `python -m benchmarks`."""
