"""Where the workers are."""

from pydantic import Field

from calib8.config import Config


class Ray(Config):
    """A Ray cluster.

    address: ``local`` for one on this machine that ends with the work, ``auto`` for the one that this machine is part
        of, ``ray://host:10001`` for a Ray client's server.
    cpus: of each worker, which runs with as many threads. A worker holds a model of its own.
    """

    address: str = Field(default="local", min_length=1)
    cpus: int = Field(default=1, ge=1)
