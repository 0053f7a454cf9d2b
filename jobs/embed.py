"""Embed the patches of an experiment with every backbone.

    ray job submit --address http://127.0.0.1:8265 --working-dir . -- \
        python -m jobs.embed EXPERIMENT.toml --store s3://BUCKET/PREFIX [--set KEY=VALUE]

Cost: about 10 s for the job and 10 s until the first batch, then the backbone: on two cores some
50 patches a second with efficientnet_lite0. This is the stage for machines with GPUs.
"""

from __future__ import annotations

from jobs import run_command

if __name__ == "__main__":
    run_command("embed")
