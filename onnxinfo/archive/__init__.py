"""The HDF5 archive: its format, its single writer, and its readers."""
