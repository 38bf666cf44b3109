"""Labelled recordings judged as a live worker would judge them, and the figures of it (docs/evaluation.md)."""
