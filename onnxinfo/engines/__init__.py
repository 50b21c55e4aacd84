"""Engines that execute an analysis: in this process, in several processes on this machine, or on a Ray cluster."""
