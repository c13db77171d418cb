"""Measurements, one module each; ``python -m benchmarks`` runs them and writes benchmarks/README.md's tables."""
