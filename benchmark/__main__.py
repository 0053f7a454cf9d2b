"""``python -m benchmark`` is ``benchmark``."""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        # Python puts the current folder first: its files would hide packages of their names.
        sys.path.append(sys.path.pop(0))
    from benchmark.cli.commands import main

    main()
