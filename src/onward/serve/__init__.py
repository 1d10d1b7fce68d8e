"""A page for this machine alone: all runs, their curves as they grow, and the pages that runs and comparisons wrote."""

from onward.serve.server import Server, serve

__all__ = ["Server", "serve"]
