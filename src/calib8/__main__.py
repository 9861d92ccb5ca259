"""``python -m calib8`` is the command line."""

from calib8.cli import main

main()
