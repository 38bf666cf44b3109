"""Machines from physics, with faults, scenarios and sensors."""
