"""People's verdicts on alerts, and how they are used."""
