"""Where the workers are."""

from typing import Annotated

from pydantic import Field

from calib8.config import Config, Option


class Ray(Config):
    """A Ray cluster."""

    address: Annotated[str, Option("--ray", metavar="ADDRESS")] = Field(default="local", min_length=1)
    """Spread the work over a Ray cluster: local (this machine), auto, or ray://host:10001.

    ``local`` is one on this machine that ends with the work, ``auto`` the one that this machine is part of,
    ``ray://host:10001`` a Ray client's server.
    """
    cpus: Annotated[int, Option("--ray-cpus")] = Field(default=1, ge=1)
    """For ``address``: CPUs of each worker, which holds a model of its own.

    A worker runs with as many threads.
    """
