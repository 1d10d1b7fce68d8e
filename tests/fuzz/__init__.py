"""Damaged and hostile inputs for everything that reads files or command lines: `python -m tests.fuzz --help`."""
