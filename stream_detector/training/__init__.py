"""From a history to an artifact: gathering windows, fitting, calibration, labelled faults, fleets."""
