"""Maps and embeddings of whole scenes: slide a model over rasters of any size.

May import ``exporting``, ``catalog``, ``networks``, ``cluster`` and the vocabulary.
"""
