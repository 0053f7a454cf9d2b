"""Torch modules and the devices they run on, without Ray and without experiments.

May import ``store`` (digests, caches, provenance) and the vocabulary.
"""
