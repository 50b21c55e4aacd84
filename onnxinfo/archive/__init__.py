"""The HDF5 archive: its format, its one writer, its readers."""
