"""Fine-tune the backbones of an experiment end to end.

    ray job submit --address http://127.0.0.1:8265 --working-dir . -- \
        python -m jobs.finetune EXPERIMENT.toml --store s3://BUCKET/PREFIX [--set KEY=VALUE]

Cost: about 15 s for the job and the first worker, then epochs: on two cores some 15 patches of
224 px per second with EfficientNet-Lite0. GPUs are used if the cluster has them.
"""

from __future__ import annotations

from jobs import run_command

if __name__ == "__main__":
    run_command("finetune")
