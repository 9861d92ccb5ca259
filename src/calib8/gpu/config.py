"""What is kept of the GPU while work runs."""

from calib8.config import Config


class Monitored(Config):
    """Base of the configs of work that ends in a report."""

    monitor: bool = False
    """Watch the GPU through NVML, and keep the timeline in the report."""
