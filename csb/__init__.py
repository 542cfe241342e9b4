"""csb: amortized conditional Schrödinger bridges."""

__version__ = "0.1.0"
