"""Write one trained cell as a folder that others use without this package.

May import ``networks``, ``experiment``, ``store`` and the vocabulary. The name leaves
``benchmark.export`` free for the function.
"""
