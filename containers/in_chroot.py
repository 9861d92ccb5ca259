"""The steps of a Dockerfile where no Docker is: in copies of a root that debootstrap made, one for each FROM.

    debootstrap --variant=minbase bookworm /srv/base
    python containers/in_chroot.py containers/cpu.Dockerfile /srv/base /srv/image

Needs root. It does what FROM (all of one base), WORKDIR, COPY, RUN and ENV say; the rest is for whoever runs the
image. Prints each step, and the size of the last root at the end.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

#: What it may take on this machine to reach an index; Docker hands proxies on, too.
PASSED = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "PIP_CERT", "PIP_INDEX_URL", "REQUESTS_CA_BUNDLE")
#: The environment that a stage begins with.
FIRST = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
CONTEXT = Path(__file__).resolve().parent.parent


def main(dockerfile: Path, base: Path, image: Path) -> None:
    """Make the folder ``image``; that of an earlier stage stands beside it, with the stage's name."""
    stages: dict[str, Path] = {}
    root, folder, environment = image, "/", FIRST
    text = re.sub(r"^#.*\n", "", dockerfile.read_text(encoding="utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    for line in filter(None, map(str.strip, text.splitlines())):
        print(f"[{time.strftime('%T')}] {line}", flush=True)
        word, rest = line.split(maxsplit=1)
        if word == "FROM":
            name = rest.partition(" AS ")[2]
            root, folder, environment = image.with_name(f"{image.name}-{name}") if name else image, "/", FIRST
            stages[name] = root
            subprocess.run(["cp", "--archive", base, root], check=True)
            shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
        elif word == "WORKDIR":
            folder = rest
            inside(root, folder).mkdir(parents=True, exist_ok=True)
        elif word == "ENV":
            environment = environment | dict(pair.split("=", 1) for pair in shlex.split(rest))
        elif word == "RUN":
            passed = {name: os.environ[name] for name in PASSED if name in os.environ}
            settings = [f"{name}={value}" for name, value in (environment | passed).items()]
            command = ["chroot", root, "env", "-i", *settings]
            subprocess.run([*command, "sh", "-c", f"cd {folder} && {rest}"], check=True)
        elif word == "COPY":
            *sources, target = rest.split()
            origin = CONTEXT
            if sources[0].startswith("--from="):
                origin = stages[sources.pop(0).removeprefix("--from=")]
            copy([inside(origin, source) for source in sources], inside(root, Path(folder, target)))
    subprocess.run(["du", "--human-readable", "--summarize", image], check=True)


def inside(root: Path, path: str | Path) -> Path:
    """The place of ``path`` of an image on this machine."""
    return root / str(path).lstrip("/")


def copy(sources: list[Path], target: Path) -> None:
    """As COPY does: files go into a folder, of a folder what is in it."""
    for source in sources:
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
        else:
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
