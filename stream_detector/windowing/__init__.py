"""Readings -> event-time windows: grids of cells, joins of topics, records as windows of one, channel profiles. Pure."""
