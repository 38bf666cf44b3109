"""Producers of readings for use without a plant: replay of recorded data, and simulation of machines."""
