"""Trained detectors as sealed files: one, a fleet in one, and which asset has which."""
