"""What runs inside the processes: each module's `open_lane(spec)` gives something that takes turns."""
