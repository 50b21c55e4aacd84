"""Samples: found, read lazily and prepared as the model takes them."""
