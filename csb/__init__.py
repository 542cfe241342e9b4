"""csb: amortized conditional Schrödinger bridges."""
