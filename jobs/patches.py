"""Sample the labelled patches of an experiment from their source.

    ray job submit --address http://127.0.0.1:8265 --working-dir . -- \
        python -m jobs.patches EXPERIMENT.toml --store s3://BUCKET/PREFIX [--set KEY=VALUE]

Cost: about 10 s for the job, then reading: some 1,700 patches of 128 px a second on each core.
"""

from __future__ import annotations

from jobs import run_command

if __name__ == "__main__":
    run_command("patches")
