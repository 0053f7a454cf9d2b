"""What Ray has, gives and loses: connection, shares of a cluster, pools, losses, metrics.

May import ``store`` and the vocabulary.
"""
