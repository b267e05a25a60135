"""Where a run's figures go besides its own folder. A tracker is a file here: its name in `train.trackers`."""
