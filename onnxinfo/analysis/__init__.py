"""The main job: what is asked for, the network and samples made ready, and every cell computed and written."""
