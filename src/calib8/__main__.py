"""The command ``calib8``, which is ``python -m calib8``, too."""

import sys


def main() -> None:
    """Run the command line. Ctrl-C is one line and 130 from the start: loading the commands takes longest."""
    try:
        from calib8.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
