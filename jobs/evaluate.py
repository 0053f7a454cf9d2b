"""Score the predictions of an experiment, with intervals.

    ray job submit --address http://127.0.0.1:8265 --working-dir . -- \
        python -m jobs.evaluate EXPERIMENT.toml --store s3://BUCKET/PREFIX [--set KEY=VALUE]

Cost: about 10 s for the job, then seconds. GPUs are not used.
"""

from __future__ import annotations

from jobs import run_command

if __name__ == "__main__":
    run_command("evaluate")
