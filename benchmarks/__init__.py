"""Benchmarks, and their results in README.md."""
