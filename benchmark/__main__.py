"""``python -m benchmark`` is ``benchmark``."""

from benchmark.cli.commands import main

if __name__ == "__main__":
    main()
