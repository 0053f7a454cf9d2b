"""The command line, and the only place that prints: results to stdout, progress to stderr.

May import every other wing. What ``benchmark list`` and ``--help`` import must be light.
"""
