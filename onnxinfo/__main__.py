"""``python -m onnxinfo``: the command line."""

from onnxinfo.cli import main

main()
