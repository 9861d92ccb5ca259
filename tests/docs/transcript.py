"""What a page prints where it is followed to the letter: its commands, run one after the other, as a plain text.

    python tests/docs/transcript.py docs/start/no-gpu.md --by 'chroot /srv/machine sudo -iu me' --in calib8

``--by`` runs them on another machine, ``--in`` a folder of it; ``--not WORD=REASON`` leaves out commands with that
word. What needs a GPU is left out, lines about progress too, of pip and apt-get all but their last; long lines are cut.
"""

import argparse
import re
import shlex
import subprocess
import time
from pathlib import Path

from snippets import ROOT, snippets_of

#: What is run, beside what a test runs.
MACHINE = "machine"
PROGRESS = re.compile(r"get ready \.\.\.|.+: [\d.,]+[kMG]?%?( of [\d.,]+[kMG]?)?(, .+)?")
INSTALLERS = re.compile(r"(sudo )?apt-get |\S*pip ")
LONGEST = 150


def main() -> None:
    """Print the transcript of each page; the exit codes are part of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--by", default="", help="Command that runs a command of the page, as `ssh HOST` does.")
    parser.add_argument("--in", dest="folder", default=".", help="Folder with calib8's source.")
    parser.add_argument("--not", dest="left_out", action="append", default=[], help="WORD=REASON.")
    given = parser.parse_args()
    reasons = dict(pair.split("=", 1) for pair in given.left_out)
    for page in given.pages:
        print(f"== {page.resolve().relative_to(ROOT)}\n", flush=True)
        for snippet in snippets_of(page.resolve()):
            for line in snippet.commands():
                reason = snippet.unrun() if snippet.needs not in ("", MACHINE) else ""
                reason = reason or next((reasons[word] for word in reasons if word in line), "")
                if reason:
                    print(f"# not run, {reason}: {line}\n", flush=True)
                else:
                    run(line, given.by, given.folder)


def run(line: str, by: str, folder: str) -> None:
    """Run a command line and print what it said, how it ended and how long it took."""
    print(f"$ {line}", flush=True)
    began = time.monotonic()
    command = [*shlex.split(by), "bash", "-c", f"cd {folder} && {line}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    said = [text for text in done.stdout.splitlines() if text.strip() and not PROGRESS.fullmatch(text)]
    for text in said[-1:] if INSTALLERS.match(line) and done.returncode == 0 else said:
        print(text if len(text) <= LONGEST else f"{text[:LONGEST]} …")
    print(f"# exit code {done.returncode}, {time.monotonic() - began:.0f} s\n", flush=True)


if __name__ == "__main__":
    main()
