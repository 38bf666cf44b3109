"""History -> artifact: gathering windows, calibration, labelled faults, fleets."""
