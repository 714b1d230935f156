"""The command line. A command parses, calls the function that the route calls, and prints."""

from api.cli.main import main

__all__ = ["main"]
