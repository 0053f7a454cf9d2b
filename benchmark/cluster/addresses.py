"""Check that the head of a Ray cluster listens, before Ray waits for it without end."""

from __future__ import annotations

import re
import socket

from benchmark.errors import UsageError, first_line
from benchmark.store.credentials import holds_credentials

ANSWER_TIMEOUT_S = 10.0
LOOPBACK = ("127.0.0.1", "localhost", "::1")
EXAMPLE = "10.0.0.7:6379"


def find_head(address: str, *, option: str) -> bool:
    """Check that something listens at the address of a cluster's head.

    Args:
        address: HOST:PORT of the head, or ``auto``: that of a Ray started on this machine.
        option: where the address was given, for error messages.

    Returns: whether it listens only on the loopback interface, as our own local Rays do.

    Raises:
        UsageError: the address is invalid, or nothing listens there.
    """
    if holds_credentials(address if "://" in address else f"ray://{address}"):
        # Without the address, which contains the secret.
        raise UsageError(
            f"{option} holds a name or password, which would be shown; give the cluster's token in "
            "RAY_AUTH_TOKEN or ~/.ray/auth_token"
        )
    if "://" in address:
        raise UsageError(
            f"{option} {address}: not a head's address; give its HOST:PORT, e.g. {EXAMPLE}, on a "
            "machine of the cluster, or send the run there with `benchmark submit`"
        )
    if address == "auto":
        address = _started_here(option)
    host, _, port = address.rpartition(":")
    if not host or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise UsageError(f"{option} {address}: not HOST:PORT of a cluster's head, e.g. {EXAMPLE}")
    host = host.strip("[]")
    if host not in LOOPBACK:
        _connect(host, int(port), option)
        return False
    from ray.util import get_node_ip_address

    # Given a loopback address, Ray connects to the public address of this machine.
    try:
        _connect(get_node_ip_address(), int(port), option)  # type: ignore[no-untyped-call]
    except UsageError:
        _connect(host, int(port), option)
        return True
    return False


def _started_here(option: str) -> str:
    from ray._private.services import canonicalize_bootstrap_address

    try:
        found = canonicalize_bootstrap_address("auto")
    except (OSError, ValueError):
        found = None
    if found is None:
        raise UsageError(
            f"{option} auto: no Ray was started on this machine; give HOST:PORT of a cluster's head"
        )
    return str(found)


def _connect(host: str, port: int, option: str) -> None:
    try:
        socket.create_connection((host, port), timeout=ANSWER_TIMEOUT_S).close()
    except (OSError, UnicodeError) as error:
        # Names of hosts are encoded first: a label has at most 63 letters.
        reason = getattr(error, "strerror", None) or first_line(error, limit=100)
        raise UsageError(
            f"{option} {host}:{port}: no Ray cluster answers there ({reason}); check the address, "
            "and that this machine can reach the head's port"
        ) from None
