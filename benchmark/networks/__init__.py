"""Torch modules and the device that they run on; knows no Ray and no experiment.

May import ``store`` (digests, caches, provenance) and the vocabulary.
"""
