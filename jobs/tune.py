"""Tune heads on the embeddings of an experiment.

    ray job submit --address http://127.0.0.1:8265 --working-dir . -- \
        python -m jobs.tune EXPERIMENT.toml --store s3://BUCKET/PREFIX [--set KEY=VALUE]

Cost: about 10 s for the job, then on two cores some 20 s for ten trials each of logistic
regression and MLP on 11,000 embeddings of 768 numbers. GPUs are not used.
"""

from __future__ import annotations

from jobs import run_command

if __name__ == "__main__":
    run_command("tune")
