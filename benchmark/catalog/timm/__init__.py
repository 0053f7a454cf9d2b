"""Networks of timm, for ``timm:...`` and for checkpoints that timm saved."""
