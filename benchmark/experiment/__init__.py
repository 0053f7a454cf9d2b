"""One experiment: its cells, their identity (fingerprints), their status and their cost.

May import ``cluster``, ``store`` and the vocabulary.
"""
