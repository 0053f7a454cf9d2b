"""Backbones ``hf:...``: image models of the Hugging Face hub, and checkpoint folders."""
