"""Hyperparameter search as bookkeeping, and the fits of heads, without Ray or a store.

May import only the vocabulary.
"""
