"""Benchmarks and recipes: every number in the documentation comes from a command in this folder."""
