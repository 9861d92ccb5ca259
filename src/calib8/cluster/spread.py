"""Work in items, spread over workers with Ray Data: what is lost with a worker is done again by another."""

import logging
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from calib8 import errors
from calib8.cluster.config import Ray
from calib8.errors import Calib8Error, SetupError

#: What an item is to be done with, in plain numbers and texts.
Item: TypeAlias = Mapping[str, Any]
#: Does one item after another, the same wherever and however often it is done.
Worker: TypeAlias = Callable[[Item], bytes]
#: Items that wait at each worker: one, so that it is never idle.
IN_FLIGHT = 2
#: Nodes that an error describes.
SHOWN = 8


def spread(
    cluster: Ray, open_worker: Callable[[], Worker], items: Sequence[Item], *, gpu: bool = False
) -> Iterator[tuple[int, bytes]]:
    """Yield (number of the item, what came of it), every item once, in the order in which they are done.

    open_worker: called once in the process of every worker; it and what it holds are sent there. gpu: whether each
        worker has a GPU to itself. Call it in a ``connected`` block. An error of calib8 in a worker is raised here.
    Raises ``SetupError`` if the cluster has no place for a worker, or breaks down.
    """
    import ray

    through_client = ray.util.client.ray.is_connected()
    answers = (_relayed if through_client else _answers)(cluster, open_worker, items, gpu)
    waiting = set(range(len(items)))
    try:
        for answer in answers:
            if answer["error"]:
                raise getattr(errors, answer["error"])(answer["made"].decode())
            if answer["number"] in waiting:
                waiting.remove(answer["number"])
                yield answer["number"], answer["made"]
    except ray.exceptions.RayTaskError:  # a bug of ours
        raise
    except ray.exceptions.RayError as error:
        raise SetupError(f"the Ray cluster broke down: {' '.join(str(error).split())[:300]}. Run it again.") from error
    if waiting:
        raise SetupError(f"Ray ended with {len(waiting)} of {len(items)} items undone. Run it again.")


def _answers(
    cluster: Ray, open_worker: Callable[[], Worker], items: Sequence[Item], gpu: bool
) -> Iterator[dict[str, Any]]:
    """What ``_Actor`` answers: ``number``, ``error`` and ``made`` of every item."""
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    workers = min(_places(cluster, gpu), len(items))
    numbered = [{**item, "number": number} for number, item in enumerate(items)]
    done = ray.data.from_items(numbered, override_num_blocks=len(numbered)).map_batches(
        _Actor,
        fn_constructor_args=(open_worker,),
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=cluster.cpus,
        num_gpus=1 if gpu else None,
        compute=ray.data.ActorPoolStrategy(
            min_size=1, initial_size=workers, max_size=workers, max_tasks_in_flight_per_actor=IN_FLIGHT
        ),
    )
    done.context.enable_progress_bars = False
    for batch in done.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=0):
        yield batch.to_pylist()[0]


def _relayed(*arguments: Any) -> Iterator[dict[str, Any]]:
    """``_answers``, from inside the cluster: Ray Data does not run through a Ray client."""
    import ray

    relay = ray.remote(num_cpus=0)(_Relay).remote(*arguments)
    while (answer := ray.get(relay.next.remote())) is not None:
        yield answer


class _Relay:
    def __init__(self, *arguments: Any) -> None:
        self._answers = _answers(*arguments)

    def next(self) -> dict[str, Any] | None:
        try:
            return next(self._answers, None)
        except Calib8Error as error:  # the cluster has no place
            return {"number": -1, "error": type(error).__name__, "made": str(error).encode()}


class _Actor:
    """A worker as Ray Data calls it: a table with one item in, a table with one answer out."""

    def __init__(self, open_worker: Callable[[], Worker]) -> None:
        self._open = open_worker
        self._worker: Worker | None = None

    def __call__(self, table: Any) -> Any:
        import pyarrow as pa

        item, error = table.to_pylist()[0], ""
        number = item.pop("number")
        try:
            if self._worker is None:
                self._worker = self._open()
            made = self._worker(item)
        except (Calib8Error, OSError, MemoryError) as failure:  # as text: not every exception survives the way
            told = _told(failure)
            error, made = type(told).__name__, str(told).encode()
        return pa.table({"number": [number], "error": [error], "made": pa.array([made], pa.large_binary())})


def _told(failure: Calib8Error | OSError | MemoryError) -> Calib8Error:
    """What to raise here for what failed in a worker: what a machine lacks is no bug of calib8."""
    if isinstance(failure, Calib8Error):
        return failure
    node = f"a worker of the Ray cluster, on {socket.gethostname()},"
    if isinstance(failure, MemoryError):
        return SetupError(f"{node} ran out of memory ({failure}). Give workers less to do at a time, or more memory.")
    return SetupError(
        f"{node} could not read or write ({failure}). Expected all files at the place where this machine has them: "
        "check its disk and its permissions there, and run it again."
    )


def _places(cluster: Ray, gpu: bool) -> int:
    """How many workers the cluster can hold. None spans two nodes: what several have left over makes no place."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    places = 0
    for node in nodes:
        room = int(node.get("CPU", 0)) // cluster.cpus
        places += min(room, int(node.get("GPU", 0))) if gpu else room
    if places < 1:
        found = ", ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes[:SHOWN])
        found += f" and {len(nodes) - SHOWN} more" if len(nodes) > SHOWN else ""
        wanted = f"{cluster.cpus} CPUs{' and a GPU' if gpu else ''}"
        raise SetupError(
            f"a worker needs {wanted} of one node; the nodes of the Ray cluster have {found or 'nothing'}. Give "
            "workers fewer CPUs, or add larger nodes."
        )
    return places
