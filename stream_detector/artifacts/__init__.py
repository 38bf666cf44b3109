"""Trained detectors as checksummed files: one detector or a whole fleet per file, and which asset uses which."""
