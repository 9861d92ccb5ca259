"""What the site is made of, for MkDocs: see mkdocs.yml.

Pages keep their places in the repository, README.md being the first, so that one link works on GitHub and on the site.
"""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
#: Section -> pages. A page that is not there yet is left out; one that is there and not listed is an error.
PAGES = {
    "": ["README.md", "docs/quickstart.md"],
    "Start": [
        "docs/start/README.md",
        "docs/start/no-gpu.md",
        "docs/start/t4.md",
        "docs/start/rtx.md",
        "docs/start/hopper.md",
        "docs/start/blackwell.md",
        "docs/start/jetson.md",
        "docs/containers.md",
    ],
    "Tutorials": [
        "docs/tutorials/mpnet.md",
        "docs/tutorials/encoder.md",
        "docs/tutorials/cnn.md",
        "docs/migrate.md",
        "docs/serving.md",
        "docs/triton.md",
        "docs/integrations.md",
        "docs/scale.md",
        "examples/detector/README.md",
        "examples/mpnet/README.md",
    ],
    "How it works": ["docs/int8.md", "docs/accuracy.md", "docs/tensorrt.md", "docs/architecture.md"],
    "Measured": ["docs/measured.md", "docs/performance.md", "docs/report.md"],
    "Reference": ["docs/cli.md", "docs/api.md", "docs/reference.md", "docs/json.md"],
    "Help": ["docs/troubleshooting.md", "docs/doctor.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"],
}
#: What pages link to, beside each other.
LINKED = ["LICENSE", "bench/results/*", "docs/**/*.png", "docs/**/*.svg", "docs/*.json", "examples/**/*.py"]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The theme's own files, and of the repository what the site shows."""
    kept = [file for file in files if not Path(file.abs_src_path or "").is_relative_to(config.docs_dir)]
    shown = [*listed(), *unlisted(), *(path for pattern in LINKED for path in ROOT.glob(pattern))]
    return Files(kept + [of_repository(path, config) for path in shown])


def of_repository(path: Path, config: MkDocsConfig) -> File:
    """A file of the repository, at the same place on the site."""
    where = path.relative_to(ROOT).as_posix()
    return File.generated(config, where, abs_src_path=str(path))


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Navigation from ``PAGES``."""
    config.nav = []
    for section, names in PAGES.items():
        there = [name for name in names if (ROOT / name).is_file()]
        config.nav += [{section: there}] if section else there
    return config


def listed() -> list[Path]:
    """The pages of ``PAGES`` that are there."""
    return [ROOT / name for names in PAGES.values() for name in names if (ROOT / name).is_file()]


def unlisted() -> list[Path]:
    """Pages that nobody put into ``PAGES``: MkDocs warns of them, and a warning ends the build."""
    return sorted(set((ROOT / "docs").rglob("*.md")) - set(listed()))
