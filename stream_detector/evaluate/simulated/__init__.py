"""Suites that test a configuration on simulated machines, for problems known from plants, with known ground truth."""

from stream_detector.evaluate.simulated.fleet import Simulate
from stream_detector.evaluate.simulated.suites import SUITES, Trial

__all__ = ["SUITES", "Simulate", "Trial"]
