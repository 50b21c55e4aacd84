"""Rules of the summary: each turns the numbers of a run into sentences; see :mod:`onnxinfo.views.summary`."""
