"""Set up an analysis, and compute the metrics of a layer on a block of samples."""
