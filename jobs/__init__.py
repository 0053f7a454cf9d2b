"""Entry points for ``ray job submit``: one for each command of ``benchmark`` that computes.

They add nothing to the command line, so that a job and a run on one machine cannot differ.
"""

from __future__ import annotations

import sys
from typing import NoReturn


def run_command(name: str) -> NoReturn:
    """Run a command of ``benchmark`` with the arguments of this process; exit with its code.

    Inside a Ray job ``RAY_ADDRESS`` names the cluster, which the run joins.
    """
    # The probe must answer also where packages are missing that the command line needs.
    from benchmark.cli.commands import main

    main([name, *sys.argv[1:]])
