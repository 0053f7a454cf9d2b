"""Hyperparameter search as bookkeeping, and the fits of heads; knows no Ray and no store.

May import the vocabulary alone.
"""
