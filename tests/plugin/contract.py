"""The checks that stream-detector offers, on what this package adds: `python -m pytest contract.py`."""

from __future__ import annotations

from pathlib import Path

import pytest
from stream_detector_example.settings import EwmaZConfig, FixedMultipleConfig

from stream_detector.datasets import checks as readers
from stream_detector.decision.threshold import checks as thresholds
from stream_detector.models import checks as detectors


@pytest.mark.parametrize("check", detectors.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("length", [1, 12])
def test_the_detector(check: detectors.Check, length: int):
    """For single cells and for windows."""
    check(detectors.Case(EwmaZConfig(), length, drawn=False))


@pytest.mark.parametrize("check", thresholds.CHECKS, ids=lambda check: check.__name__)
def test_the_threshold_method(check: thresholds.Check):
    """With a factor of its own."""
    check(FixedMultipleConfig(factor=3.0))


@pytest.mark.parametrize("check", readers.CHECKS, ids=lambda check: check.__name__)
def test_the_reader(check: readers.Check, tmp_path: Path):
    """On a file of two machines."""
    file = tmp_path / "hall.lines"
    line = '{{"machine": "{}", "at": "2024-01-01T00:00:0{}Z", "heat": {}, "faulty": false}}\n'
    file.write_text("".join(line.format(machine, row, 20 + row) for machine in ("a", "b") for row in range(3)))
    check(readers.Case("machine-lines", file))
