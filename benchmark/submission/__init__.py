"""Send a run to a Ray cluster: plan it, check the cluster, ship the package, follow the job.

May import ``catalog``, ``cluster``, ``store`` and the vocabulary; runs no stage itself.
"""
