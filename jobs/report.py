"""Write the page that ranks the methods of an experiment.

    ray job submit --address http://127.0.0.1:8265 --working-dir . -- \
        python -m jobs.report EXPERIMENT.toml --store s3://BUCKET/PREFIX [--set KEY=VALUE]

Cost: about 10 s for the job, then seconds. GPUs are not used.
"""

from __future__ import annotations

from jobs import run_command

if __name__ == "__main__":
    run_command("report")
