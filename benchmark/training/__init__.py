"""Fine-tune a backbone: the loop, its checkpoints, and its input; does not use Ray.

May import ``networks``, ``search``, ``store`` and the vocabulary.
"""
