"""From history to artifact: gathering windows, fitting, calibration, labelled faults, fleets."""
