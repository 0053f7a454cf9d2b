"""Measurements of speed and memory; ratios are taken within one run."""
