"""The plots, one file each, named after the plot; see :mod:`onnxinfo.views.plotting`."""
