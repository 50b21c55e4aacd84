"""The public workflows, one function each: the only layer that imports all others."""
