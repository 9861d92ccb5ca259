"""Named device memory that is reused."""

from contextlib import ExitStack

from calib8.cuda.device import Device


class Buffers:
    """Named device memory, reused from call to call: a buffer grows when more is wanted and never shrinks."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._held: dict[str, tuple[int, int]] = {}

    def room(self, name: str, size: int) -> int:
        """The address of at least ``size`` bytes (one, for an empty tensor: TensorRT takes no null pointer).

        What the buffer held is lost when it grows: the old memory is freed first, so that never both are taken.
        Raises ``SetupError`` if the memory is not free; the buffer is then gone, the others stay.
        """
        size = max(size, 1)
        address, held = self._held.get(name, (0, 0))
        if size > held:
            self._free(name)
            address = self._device.malloc(size)
            self._held[name] = (address, size)
        return address

    def close(self) -> None:
        """Free all of it. Calling it twice is fine."""
        with ExitStack() as each:  # one that fails does not keep the others from being freed
            for name in list(self._held):
                each.callback(self._free, name)

    def _free(self, name: str) -> None:
        address, _ = self._held.pop(name, (None, 0))
        if address is not None:
            self._device.free(address)
