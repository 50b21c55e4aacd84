"""Find samples, read them lazily and prepare them for the model."""
