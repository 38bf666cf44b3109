"""Readings -> event-time windows: grids of cells, joins of topics, records, channel profiles. Pure."""
