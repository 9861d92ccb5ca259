"""What to type for an extra: right in the folder that calib8 came from, as long as no index has it."""

from types import SimpleNamespace

import pytest

from calib8 import errors

FOLDER = '{"dir_info": {}, "url": "file:///home/me/calib8"}'


@pytest.mark.parametrize(
    ("came_from", "extra", "command"),
    [
        (
            '{"dir_info": {}, "url": "file:///home/me/calib8"}',
            "serve",
            "pip install '.[serve]' in calib8's source folder",
        ),
        (FOLDER, "", "pip install '.' in calib8's source folder"),
        (None, "serve", "pip install 'calib8[serve]'"),
        (None, "", "pip install 'calib8'"),
    ],
)
def test_the_command_for_an_extra(
    monkeypatch: pytest.MonkeyPatch, came_from: str | None, extra: str, command: str
) -> None:
    monkeypatch.setattr(errors, "distribution", lambda _: SimpleNamespace(read_text=lambda _: came_from))
    assert errors.install(extra) == command
