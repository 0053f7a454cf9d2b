"""Ray is connected to once, and only when it is needed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmark.cluster.addresses import find_head
from benchmark.cluster.connection import Cluster
from benchmark.errors import UsageError


def test_ray_is_imported_and_started_only_when_it_is_connected_to() -> None:
    code = (
        "import sys\n"
        "from benchmark.cluster.connection import Cluster, Resources\n"
        "from benchmark.cluster.pools import plan_pool\n"
        "with Cluster() as cluster:\n"
        "    plan_pool(Resources(2.0, 0.0, 0.0), num_actors=None)\n"
        "assert 'ray' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_cluster_that_was_never_connected_closes() -> None:
    cluster = Cluster("127.0.0.1:1")
    cluster.close()
    cluster.close()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("head", "--address head: not HOST:PORT of a cluster's head, e.g. 10.0.0.7:6379"),
        ("head:0", "--address head:0: not HOST:PORT"),
        ("head:x", "--address head:x: not HOST:PORT"),
        ("head:²", "--address head:²: not HOST:PORT"),
        pytest.param("head:" + "9" * 5000, "--address head:999", id="long"),
        (
            "http://head:8265",
            "--address http://head:8265: not a head's address; give its HOST:PORT",
        ),
        ("ray://head:10001", "or send the run there with `benchmark submit`"),
        ("head.invalid:6379", "--address head.invalid:6379: no Ray cluster answers there"),
    ],
)
def test_an_address_that_is_none_is_refused(address: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_head(address, option="--address")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "address",
    ["me:s3cr3t@head:6379", "s3cr3t@head:6379", "http://head:8265?token=s3cr3t"],
)
def test_an_address_with_a_secret_is_not_repeated(address: str) -> None:
    with pytest.raises(UsageError, match=r"^RAY_ADDRESS holds a name or password") as caught:
        find_head(address, option="RAY_ADDRESS")
    assert "s3cr3t" not in str(caught.value)


def test_a_port_where_nobody_listens_is_one_line_at_once() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(UsageError, match=rf"^--address {address}: no Ray cluster answers th"):
            find_head(address, option="--address")
        assert time.monotonic() - began < 5


JOIN = """
import sys
import ray
from benchmark.cluster.connection import Cluster
from benchmark.errors import UsageError
ray.__version__ = sys.argv[2] or ray.__version__
try:
    with Cluster(sys.argv[1]) as cluster:
        print(cluster.connect().num_cpus)
except UsageError as error:
    print(error)
"""


def join(address: str, home: str, version: str = "", **env: str) -> tuple[str, str]:
    """Connect from another process, which knows of tokens only what lies in its home folder."""
    done = subprocess.run(
        [sys.executable, "-c", JOIN, address, version],
        env={"PATH": os.environ["PATH"], "HOME": home, **env},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.stdout, done.stderr


def test_the_local_ray_of_another_process_is_joined_with_its_token_only(
    ray_session: None, tmp_path: Path
) -> None:
    """It listens on the loopback alone."""
    import ray

    address = ray.get_runtime_context().gcs_address
    assert join(address, os.environ["HOME"]) == ("2.0\n", "")
    # Ray tries so often, once a second.
    few = {"RAY_NUM_REDIS_GET_RETRIES": "2"}
    out, err = join(address, str(tmp_path), RAY_AUTH_TOKEN="0123456789abcdef" * 4, **few)
    assert out.startswith(f"--address {address}: something listens there, but Ray cannot connect")
    assert (len(out.splitlines()), err) == (1, "")


def test_a_cluster_of_another_ray_is_one_line_with_both_versions(ray_session: None) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    out, err = join(address, os.environ["HOME"], version="2.1.0")
    assert out.startswith(f"--address {address}: Version mismatch: The cluster was started with: ")
    assert f"Ray: {ray.__version__} " in out and "Ray: 2.1.0 " in out
    assert (len(out.splitlines()), err) == (1, "")
