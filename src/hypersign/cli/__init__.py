"""The command `hypersign`: one file a verb; each parses words, calls one function and prints."""

from hypersign.cli.main import main

__all__ = ["main"]
