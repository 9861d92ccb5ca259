"""Embeddings over HTTP."""

import os
from pathlib import Path
from typing import Annotated

import typer
from pydantic import SecretStr

import calib8
from calib8.cli import options as opt
from calib8.cli.fields import Only
from calib8.cli.results import add_server
from calib8.console import ConsoleProgress
from calib8.data.reading import read_whole
from calib8.errors import ConfigError

#: The environment variable that holds the key which clients must send.
KEY = "CALIB8_API_KEY"
#: All but the key, which is in a file.
ServeOptions = Annotated[
    calib8.Serve,
    Only(
        "host", "port", "name", "truncate", "max_inputs", "max_tokens", "max_body_bytes", "max_requests",
        "queue_tokens", "batch_tokens", "grace_seconds",
    ),
]  # fmt: skip


def register(app: typer.Typer) -> None:
    """Add this module's command to ``app``."""
    add_server(app, serve)


def serve(
    artefact: Annotated[Path, typer.Argument(help="ONNX model or engine of a sentence encoder.")],
    *,
    config: ServeOptions,
    api_key_file: Annotated[
        Path | None, typer.Option(help=f"File with the key that clients must send; default: ${KEY}, if set.")
    ] = None,
    tokenizer: opt.Tokenizer = None,
    runtime: opt.Runtime,
    device: opt.Device = None,
    quiet: opt.Quiet = False,
) -> None:
    """Serve embeddings over HTTP, as OpenAI's clients ask for them. SIGTERM or Ctrl-C finishes what is under way.

    Example: calib8 serve build/mpnet/model.int8.onnx --port 8000
    """
    config = calib8.Serve(**{**config.asked(), "api_key": _key(api_key_file)})
    with ConsoleProgress(quiet=quiet) as progress:
        calib8.serve(artefact, config, tokenizer=tokenizer, runtime=runtime, progress=progress)


def _key(path: Path | None) -> SecretStr | None:
    """The key in the file, or in the environment; None if there is neither."""
    if path is None and KEY not in os.environ:
        return None
    try:
        key = (read_whole(path, "API key file").decode("utf-8") if path else os.environ[KEY]).strip()
    except UnicodeDecodeError:
        key = ""
    if not key:
        raise ConfigError(f"{path or f'${KEY}'} holds no key; expected one line of text.")
    return SecretStr(key)
