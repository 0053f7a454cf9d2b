"""Results after their run: read complete scores from stores, compare, collect and query them.

May import stages, catalog, statistics, experiment, store and the vocabulary.
"""
