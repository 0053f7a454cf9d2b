"""The command line, and the only place that prints: results to stdout, progress to stderr.

May import every other wing. ``benchmark list`` and ``--help`` must import nothing heavy.
"""
