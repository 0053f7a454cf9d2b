"""Maps of whole scenes: slide an exported model over rasters of any size.

May import ``exporting``, ``catalog``, ``cluster`` and the vocabulary.
"""
