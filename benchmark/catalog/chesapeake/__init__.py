"""Chesapeake land cover: scenes of NAIP and their labels, by state."""
