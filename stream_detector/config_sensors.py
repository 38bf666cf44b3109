"""The settings of telling broken sensors from broken machines."""

from __future__ import annotations

from stream_detector.config_base import Section


class SensorsConfig(Section):
    """Sensor faults: stuck, dropout, out of range, saturated, clock wrong, silent. What is usual for a channel was
    learnt in training and lies in the artifact; a set-up of records has no such checks."""

    check: bool = True
    """Tell sensor faults. false: what a broken sensor does is judged as the machine's doing."""
