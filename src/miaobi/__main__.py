"""The start of the command line: `miaobi`, and `python -m miaobi`.

Imports nothing before `main` runs, so that Ctrl-C in the first moments, while the
command line itself is being imported, ends the process without a traceback.
"""

import sys

INTERRUPTED = 130
"""The exit code of a process that Ctrl-C ended, as shells count."""


def main() -> int:
    """Return the exit code of the command line in sys.argv."""
    try:
        from miaobi import cli

        return cli.main()
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
