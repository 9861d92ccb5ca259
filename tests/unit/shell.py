"""The command line in this process."""

import pytest

from calib8.cli.main import main


class Shell:
    """Runs ``calib8`` in this process: exit code, stdout, stderr."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        self.monkeypatch.setattr("sys.argv", ["calib8", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_info:
            main()
        captured = self.capsys.readouterr()
        return int(exit_info.value.code or 0), captured.out, captured.err
