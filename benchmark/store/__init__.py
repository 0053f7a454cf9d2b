"""Artefacts on any file system, each whole or absent, and the leases that runs hold on them.

May import only the errors of the vocabulary.
"""
