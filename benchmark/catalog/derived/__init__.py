"""Backbones that are made from stored embeddings: their entries, and what is fitted on train."""
