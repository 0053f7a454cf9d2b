"""Entry points for ``ray job submit``: one for each command of ``benchmark`` that computes.

They only call the command line, so that a job and a local run cannot differ.
"""

from __future__ import annotations

import sys
from typing import NoReturn


def run_command(name: str) -> NoReturn:
    """Run a command of ``benchmark`` with the arguments of this process; exit with its code.

    In a Ray job the run joins the cluster that ``RAY_ADDRESS`` names.
    """
    # Not at module level: the probe must run even if packages of the command line are missing.
    from benchmark.cli.commands import main

    main([name, *sys.argv[1:]])
