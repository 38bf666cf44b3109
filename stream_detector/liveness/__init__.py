"""Which assets and channels are heard: silence, dropouts, clocks, refused readings. Pure."""
