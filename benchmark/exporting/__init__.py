"""Export one trained cell as a folder for use elsewhere.

May import ``networks``, ``experiment``, ``store`` and the vocabulary. The name leaves
``benchmark.export`` free for the function.
"""
