"""What the tests of exports leave to others."""

collect_ignore = ["others"]
"""Scripts that run in the environments of the tools they call."""
