"""Scores -> alerts and states: the engine and its policies. Pure."""
