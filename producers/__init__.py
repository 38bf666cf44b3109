"""Where readings come from when there is no plant: recorded data replayed, and machines simulated from physics."""
