"""Ray is connected to once, and only when it is needed."""

from __future__ import annotations

import subprocess
import sys

from benchmark.cluster import Cluster


def test_ray_is_imported_and_started_only_when_it_is_connected_to() -> None:
    code = (
        "import sys\n"
        "from benchmark.cluster import Cluster, Resources\n"
        "from benchmark.pools import plan_pool\n"
        "with Cluster() as cluster:\n"
        "    plan_pool(Resources(2.0, 0.0, 0.0), num_actors=None)\n"
        "assert 'ray' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_cluster_that_was_never_connected_closes() -> None:
    cluster = Cluster("127.0.0.1:1")
    cluster.close()
    cluster.close()
