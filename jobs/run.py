"""Run all stages of an experiment in order; complete artefacts are skipped.

    ray job submit --address http://127.0.0.1:8265 --working-dir . -- \
        python -m jobs.run EXPERIMENT.toml --store s3://BUCKET/PREFIX [--set KEY=VALUE]

Cost: the sum of the stages, and about 10 s for the job itself: minutes for
experiments/quickstart.toml on two cores. Submit a stopped or lost job again: it goes on where it
ended.
"""

from __future__ import annotations

from jobs import run_command

if __name__ == "__main__":
    run_command("run")
