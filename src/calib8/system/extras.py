"""The commands that install calib8's extras."""

from importlib.metadata import distribution


def install(extra: str = "") -> str:
    """The command that adds an ``extra``, or calib8 itself, in the way in which this calib8 came here.

    From a package index by name; from a folder, as long as calib8 is on none, in that folder, wherever it is now.
    """
    wanted = f"[{extra}]" if extra else ""
    if distribution("calib8").read_text("direct_url.json") is None:  # PEP 610: there if it came from no index
        return f"pip install 'calib8{wanted}'"
    return f"pip install '.{wanted}' in calib8's source folder"
