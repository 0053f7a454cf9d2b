"""Embeddings that others have computed, as backbones: tables of identifiers and vectors."""
