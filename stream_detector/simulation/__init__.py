"""Simulation of machines from physical models, with faults, scenarios and sensors."""
