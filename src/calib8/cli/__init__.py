"""The command line: ``calib8 VERB``. Every verb is one api function."""

from calib8.cli.main import main

__all__ = ["main"]
