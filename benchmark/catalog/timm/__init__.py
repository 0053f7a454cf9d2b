"""Networks of timm, for backbones ``timm:...`` and for checkpoints saved by timm."""
