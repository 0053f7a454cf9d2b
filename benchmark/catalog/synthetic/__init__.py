"""Synthetic scenes in the layout of the Chesapeake data set."""
