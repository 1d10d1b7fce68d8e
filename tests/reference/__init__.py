"""Slow, obvious implementations, written from the mathematics and used by tests alone."""
