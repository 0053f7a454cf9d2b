"""Weights of torchgeo as backbones: ``torchgeo:...``."""
