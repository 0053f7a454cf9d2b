"""Trackers beside the store: finished runs in MLflow, trials and trainings in TensorBoard.

May import comparing, exporting, experiment, store and the vocabulary. A tracker reads what a run
has written; nothing that it does or fails to do changes a result.
"""
