"""Cluster files: what differs from ``cluster.yaml`` elsewhere, Kubernetes manifests, Slurm."""
