"""Whole jobs, one function each: the only layer that imports all others."""
