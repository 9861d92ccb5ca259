"""Embeddings over HTTP."""

import os
from pathlib import Path
from typing import Annotated

import typer
from pydantic import SecretStr

import calib8
from calib8.cli import options as opt
from calib8.cli.results import add_server
from calib8.console import ConsoleProgress
from calib8.errors import ConfigError
from calib8.system.reading import read_whole

#: The environment variable that holds the key which clients must send.
KEY = "CALIB8_API_KEY"


def register(app: typer.Typer) -> None:
    """Add this module's command to ``app``."""
    add_server(app, serve)


def serve(
    artefact: Annotated[Path, typer.Argument(help="ONNX model or engine of a sentence encoder.")],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8000,
    name: Annotated[
        str | None, typer.Option(help="The model's name in requests; default: its file name without the suffix.")
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(help=f"File with the key that clients must send; default: ${KEY}, if set.")
    ] = None,
    truncate: Annotated[
        bool, typer.Option("--truncate", help="Cut texts that are too long for the model; default: refuse them.")
    ] = False,
    max_inputs: Annotated[int, typer.Option(help="Inputs of one request.")] = 2048,
    max_tokens: Annotated[int, typer.Option(help="Tokens of one request.")] = 65_536,
    max_body_bytes: Annotated[int, typer.Option(help="Bytes of one request.")] = 4 * 2**20,
    max_requests: Annotated[int, typer.Option(help="Requests under way; more are answered with 429.")] = 1024,
    queue_tokens: Annotated[int, typer.Option(help="Tokens waiting; more are answered with 429.")] = 131_072,
    batch_tokens: Annotated[int, typer.Option(help="Positions of one run, padding included.")] = 512,
    grace_seconds: Annotated[int, typer.Option(help="What is under way at shutdown may still take.")] = 30,
    tokenizer: opt.Tokenizer = None,
    runtime: opt.Runtime = "auto",
    device: opt.Device = None,
    quiet: opt.Quiet = False,
) -> None:
    """Serve embeddings over HTTP, as OpenAI's clients ask for them. SIGTERM or Ctrl-C finishes what is under way.

    Example: calib8 serve build/mpnet/model.int8.onnx --port 8000
    """
    config = calib8.Serve(
        host=host,
        port=port,
        name=name,
        api_key=_key(api_key_file),
        truncate=truncate,
        max_inputs=max_inputs,
        max_tokens=max_tokens,
        max_body_bytes=max_body_bytes,
        max_requests=max_requests,
        queue_tokens=queue_tokens,
        batch_tokens=batch_tokens,
        grace_seconds=grace_seconds,
    )
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
