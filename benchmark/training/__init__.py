"""Fine-tune a backbone: the loop, its checkpoints, and how patches are fed; knows no Ray.

May import ``networks``, ``search``, ``store`` and the vocabulary.
"""
