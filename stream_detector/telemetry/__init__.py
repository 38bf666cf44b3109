"""Logs, metrics, and secrets blotted out of both."""
