"""The command line: ``calib8 VERB``. Every verb calls the public function of its name."""

from calib8.cli.main import main

__all__ = ["main"]
