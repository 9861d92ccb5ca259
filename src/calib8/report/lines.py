"""Lines of a report for a terminal: breaks are ours, and nothing within a line is."""

from rich.text import Text

from calib8.console import visible


def lines(*parts: str, style: str = "") -> Text:
    """Each part on a line of its own. Unlike rich's ``Text``, which drops some control characters and keeps others."""
    return Text("\n".join(map(visible, parts)), style=style)
