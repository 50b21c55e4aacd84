"""Noise, networks and the solvers of the entropy metrics."""
