"""Image models of the Hugging Face hub, and checkpoint folders, as backbones: ``hf:...``.

``resolve`` turns a name into an entry, from JSON and headers alone; the other modules say where
the files are, what the model is fed, and how it is built, checked and published.
"""

from benchmark.catalog.huggingface.resolve import PREFIX, resolve_huggingface

__all__ = ["PREFIX", "resolve_huggingface"]
