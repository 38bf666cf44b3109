"""The ports on real servers and in memory; each package is the only one that imports its client."""
