"""A set-up tried on simulated machines before a plant does it: suites of what fails in plants, with known truth."""

from stream_detector.evaluate.simulated.fleet import Simulate
from stream_detector.evaluate.simulated.suites import SUITES, Trial

__all__ = ["SUITES", "Simulate", "Trial"]
