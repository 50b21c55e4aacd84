"""Imported last by the server that forks: the collector of a child would touch, and so copy, all objects."""

import gc

gc.collect()
gc.freeze()
