"""Chesapeake land cover: state by state, scenes of NAIP and their labels."""
