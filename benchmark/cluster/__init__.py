"""Use a Ray cluster: connection, budgets of stages, pools of actors, losses, metrics.

May import ``store`` and the vocabulary.
"""
