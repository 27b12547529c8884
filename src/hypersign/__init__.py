"""Binary and ternary networks through high-dimensional geometry."""

__version__ = "0.2.0"
