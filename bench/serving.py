"""Many clients at once against `calib8 serve`, and against the same server when it computes one text at a time.

    python bench/serving.py build/mpnet/model.int8.onnx examples/mpnet/held_out.txt --results DATE-serving.json

Every client keeps one connection and asks for one text after the other; after a 429 it waits as long as it is told.
`one at a time` is the same HTTP server, on the same model, with as many clients, that runs every text alone, on all
cores and one after the other. The two take turns, so that what else the machine does strikes both alike. Clients
share the server's cores, and their CPU is told. Each answer is compared with the vector of its text when nothing else
went on. Latency is from request to whole answer. `ceiling` is what the model gives without a server: `calib8 embed`
on these texts against runs of one text.
"""

import argparse
import asyncio
import base64
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib8.files import write_json
from calib8.report.report import this_machine
from calib8.runtime.open import open_artefact
from calib8.serving.config import Serve
from calib8.serving.server import serving
from calib8.text.sentence import SentenceEncoder
from calib8.text.tokenizer import read_sentences

BATCHED, SINGLE = "calib8 serve", "one at a time"


class Server:
    """A server in a process of its own."""

    def __init__(self, command: Sequence[str | Path]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert self._process.stdout is not None
        next(line for line in self._process.stdout if " in " in line)  # the model is open
        self.rss_at_start = self.rss()
        line = next(line for line in self._process.stdout if "http://" in line)
        self.port = int(line.rpartition(":")[2].partition("/")[0])
        self.rss_when_warm = self.rss()

    def rss(self) -> float:
        """Resident memory in MiB."""
        status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii")
        return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS"))

    def cpu(self) -> float:
        """Seconds of CPU so far, of user and system."""
        times = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> int:
        """Its exit code."""
        self._process.terminate()
        return self._process.wait(60)


@dataclass
class Seen:
    """What the clients of one server saw."""

    seconds: float = 0.0
    in_time: int = 0
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    least_cosine: float = 1.0
    server_cpu: float = 0.0
    clients_cpu: float = 0.0
    rss_at_end: float = 0.0

    def row(self) -> dict[str, Any]:
        """As numbers for people."""
        p50, p99 = np.percentile(self.latencies, (50, 99))
        return {
            "texts_per_second": round(self.in_time / self.seconds, 1),
            "p50_s": round(float(p50), 3),
            "p99_s": round(float(p99), 3),
            "server_cpu_ms_per_text": round(1000 * self.server_cpu / len(self.latencies), 2),
            "clients_cpu_ms_per_text": round(1000 * self.clients_cpu / len(self.latencies), 2),
            "statuses": dict(self.statuses),
            "least_cosine_to_text_alone": round(self.least_cosine, 6),
            "rss_at_end_mib": round(self.rss_at_end),
        }


class Client:
    """One keep-alive connection."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> "Client":
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        await self._writer.wait_closed()

    async def ask(self, text: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the answer."""
        body = json.dumps({"model": "bench", "input": text, "encoding_format": "base64"}).encode()
        head = f"POST /v1/embeddings HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)
        lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)}
        return int(lines[0].split()[1]), headers, await self._reader.readexactly(int(headers["content-length"]))


async def load(server: Server, texts: Sequence[str], alone: NDArray[np.float32], clients: int, seen: Seen,
               seconds: float) -> None:  # fmt: skip
    """Let ``clients`` ask for ``seconds``, and keep what they saw."""
    end = time.perf_counter() + seconds

    async def one(number: int) -> None:
        async with Client(server.port) as client:
            row = number * 7919 % len(texts)
            while (asked := time.perf_counter()) < end:
                status, headers, body = await client.ask(texts[row])
                seen.statuses[str(status)] += 1
                if status == 200:
                    seen.latencies.append(time.perf_counter() - asked)
                    seen.in_time += time.perf_counter() < end
                    seen.least_cosine = min(seen.least_cosine, float(vector_of(body) @ alone[row]))
                    row = (row + 1) % len(texts)
                elif status == 429:
                    await asyncio.sleep(int(headers["retry-after"]))

    server_cpu, clients_cpu = server.cpu(), time.process_time()
    done = await asyncio.gather(*(one(number) for number in range(clients)), return_exceptions=True)
    seen.statuses.update(type(error).__name__ for error in done if isinstance(error, BaseException))
    seen.server_cpu += server.cpu() - server_cpu
    seen.clients_cpu += time.process_time() - clients_cpu
    seen.rss_at_end = server.rss()
    seen.seconds += seconds


async def each_alone(server: Server, texts: Sequence[str]) -> NDArray[np.float32]:
    """The vector of every text, [len(texts), width], while nothing else goes on."""
    async with Client(server.port) as client:
        return np.stack([vector_of((await client.ask(text))[2]) for text in texts])


def vector_of(body: bytes) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(json.loads(body)["data"][0]["embedding"]), "<f4")


def main() -> None:
    """Measure, print and keep."""
    options = _options()
    if options.serve_single:
        serve_single(options.model)
        return
    every = read_sentences(options.texts)
    corpora = {words: [text for text in every if len(text.split()) <= words] for words in options.words}
    ceilings = {words: ceiling(options.model, texts) for words, texts in corpora.items()}
    servers = {
        BATCHED: Server(["-m", "calib8", "serve", options.model, "--port", "0", "--name", "bench", "--truncate"]),
        SINGLE: Server([__file__, options.model, options.texts, "--serve-single"]),
    }
    result = {
        "command": " ".join(["python", *sys.argv]),
        "date": date.today().isoformat(),
        "machine": this_machine().model_dump(),
        "seconds": options.seconds,
        "rss_mib": {
            name: {"start": round(server.rss_at_start), "warm": round(server.rss_when_warm)}
            for name, server in servers.items()
        },
        "texts": [measured(servers, texts, options) | {"ceiling": ceilings[words]} for words, texts in corpora.items()],
        "exit_code_after_sigterm": [server.stop() for server in servers.values()],
    }
    print(json.dumps(result, indent=2), table(result), sep="\n\n")
    if options.results:
        write_json(options.results, result)


def measured(servers: dict[str, Server], texts: Sequence[str], options: argparse.Namespace) -> dict[str, Any]:
    """Both servers by turns, under many clients and with one."""
    seen = {(name, clients): Seen() for name in servers for clients in (options.clients, 1)}
    alone = {name: asyncio.run(each_alone(server, texts)) for name, server in servers.items()}
    for _ in range(options.rounds):
        for (name, clients), found in seen.items():
            seconds = options.seconds if clients > 1 else options.seconds / 4
            asyncio.run(load(servers[name], texts, alone[name], clients, found, seconds / options.rounds))
    rows = {name: {str(clients): found.row() for (own, clients), found in seen.items() if own == name}
            for name in servers}  # fmt: skip
    many = str(options.clients)
    return {
        "count": len(texts),
        "mean_words": round(float(np.mean([len(text.split()) for text in texts])), 1),
        "clients": rows,
        "throughput_ratio": round(rows[BATCHED][many]["texts_per_second"] / rows[SINGLE][many]["texts_per_second"], 2),
    }


def ceiling(model: Path, texts: Sequence[str]) -> dict[str, float]:
    """Texts per second in this process, without a server, in the better of two runs each, and their ratio."""
    rates = {}
    for name, throughput in ((BATCHED, True), (SINGLE, False)):
        with open_artefact(model, throughput=throughput) as runtime:
            encoder = SentenceEncoder(model.parent, runtime)
            work = [texts] if throughput else [[text] for text in texts]
            seconds = []
            for _ in range(3):  # the first is new to every shape
                start = time.perf_counter()
                for part in work:
                    encoder.embed(part)
                seconds.append(time.perf_counter() - start)
            rates[name] = round(len(texts) / min(seconds[1:]), 1)
    return {
        "batched": rates[BATCHED],
        "one_at_a_time": rates[SINGLE],
        "ratio": round(rates[BATCHED] / rates[SINGLE], 2),
    }


def table(result: dict[str, Any]) -> str:
    """What docs/performance.md shows."""
    heads = ["texts", "clients", "", "texts/s", "p50 s", "p99 s", "CPU ms per text: server, clients", "answers",
             "MiB: start, warm, end"]  # fmt: skip
    lines = [heads, ["---"] * len(heads)]
    for texts in result["texts"]:
        for name, by_clients in texts["clients"].items():
            for clients, row in by_clients.items():
                cpu = f"{row['server_cpu_ms_per_text']}, {row['clients_cpu_ms_per_text']}"
                answers = ", ".join(f"{status}: {count}" for status, count in row["statuses"].items())
                rss = ", ".join(map(str, [*result["rss_mib"][name].values(), row["rss_at_end_mib"]]))
                speeds = [row["texts_per_second"], row["p50_s"], row["p99_s"]]
                lines.append([f"{texts['mean_words']} words", clients, name, *speeds, cpu, answers, rss])
    ratios = [
        f"{texts['mean_words']} words: {texts['throughput_ratio']} times one at a time; without a server "
        f"{texts['ceiling']['ratio']}"
        for texts in result["texts"]
    ]
    return "\n".join([*(f"| {' | '.join(map(str, line))} |" for line in lines), "", *ratios])


def serve_single(model: Path) -> None:
    """The server that this is compared with: every text is a run of its own, on all cores."""
    config = Serve(port=0, batch_tokens=1, truncate=True)
    with open_artefact(model) as runtime:
        print(f"bench in {runtime.description}", flush=True)
        encoder = SentenceEncoder(model.parent, runtime)
        with serving(encoder, config, "bench", 0, Told()) as (server, listener):
            print(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", flush=True)
            server.run(sockets=[listener])


class Told:
    """A ``Progress`` that prints what goes wrong."""

    def update(self, stage: str, done: float, total: float | None) -> None:
        """Ignore the step."""

    def note(self, message: str) -> None:
        """For the parent process."""
        print(message, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("model", type=Path, help="INT8 model, its tokenizer beside it")
    parser.add_argument("texts", type=Path, help="sentences, one a line")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60, help="for each server; a quarter of it for a lone client")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--words", type=int, nargs="+", default=[12, 10**6], help="leave out texts with more words")
    parser.add_argument("--results", type=Path)
    parser.add_argument("--serve-single", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
