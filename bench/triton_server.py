"""An exported repository in a real Triton server, against calib8 itself: the same vectors, and requests that batch.

    python bench/triton_server.py MODEL.onnx --tokenizer FOLDER --server-venv VENV [--texts FILE]

VENV is a virtual environment with nvidia-pytriton, tokenizers and onnxruntime. Of Triton's back ends that package has
the one for Python only, so the encoder's ``config.pbtxt`` is changed to it and a stand-in runs the exported
``model.onnx`` in ONNX Runtime. Tokeniser, pooling and ensemble are served as they were exported.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

import calib8
from calib8.graph.io import load
from calib8.runtime.ort import OrtRuntime
from calib8.telemetry import silence
from calib8.text.sentence import SentenceEncoder
from calib8.text.tokenizer import read_sentences

PORTS = (18820, 18821)
CLIENTS = 16
STAND_IN = '''
import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"]
        self.session = ort.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
        self.inputs, self.outputs = ([one["name"] for one in config[kind]] for kind in ("input", "output"))

    def execute(self, requests):
        """The batcher joins requests of one shape only: one run for all."""
        given = [[pb_utils.get_input_tensor_by_name(one, name).as_numpy() for name in self.inputs] for one in requests]
        feeds = dict(zip(self.inputs, map(np.concatenate, zip(*given))))
        got = self.session.run(self.outputs, feeds)
        ends = np.cumsum([len(one[0]) for one in given])[:-1]
        split = zip(*(np.split(array, ends) for array in got))
        print("batch of", len(feeds[self.inputs[0]]), "from", len(requests), flush=True)
        return [
            pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor(n, a) for n, a in zip(self.outputs, arrays)])
            for arrays in split
        ]
'''


def main() -> None:
    """Print one JSON object: what was compared, and what the server did."""
    silence()  # the tools that it starts, too
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--server-venv", type=Path, required=True)
    parser.add_argument("--texts", type=Path, default=Path("examples/mpnet/held_out.txt"))
    parser.add_argument("--count", type=int, default=64)
    options = parser.parse_args()
    texts = [*read_sentences(options.texts)[: options.count], "long " * 600, "", "naïve café 漢字 🙂"]
    embedded = {
        runtime: calib8.embed(options.model, texts, tokenizer=options.tokenizer, runtime=runtime)
        for runtime in ("onnxruntime", "openvino")
    }
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "repository"
        calib8.export_triton(
            options.model, repository, calib8.Triton(name="encoder", queue_delay_us=5000), tokenizer=options.tokenizer
        )
        with OrtRuntime(load(repository / "encoder_encoder" / "1" / "model.onnx"), integers=True) as runtime:
            expected = SentenceEncoder(options.tokenizer, runtime).embed(texts)
        _stand_in(repository / "encoder_encoder")
        log = Path(folder) / "log"
        with log.open("w") as stream, _server(options.server_venv, repository, Path(folder), stream) as server:
            try:
                version = _ready(server, log)
                together = np.concatenate([_ask(texts[at : at + 8]) for at in range(0, len(texts), 8)])
                with ThreadPoolExecutor(CLIENTS) as clients:
                    alone = np.concatenate(list(clients.map(lambda text: _ask([text]), texts)))
                refused = _refused()
            finally:
                server.terminate()
        batches = [line.split() for line in log.read_text().splitlines() if line.startswith("batch of")]
    print(
        json.dumps(
            {
                "triton": version,
                "texts": len(texts),
                "requests of 8, lowest cosine to calib8 with the exported model": _lowest(together, expected),
                "requests of 1, lowest cosine to calib8 with the exported model": _lowest(alone, expected),
                "largest difference": float(np.abs(alone - expected).max()),
                "lowest cosine to calib8.embed, by runtime": {
                    runtime: _lowest(alone, vectors) for runtime, vectors in embedded.items()
                },
                "lowest cosine between these two": _lowest(*embedded.values()),
                "clients": CLIENTS,
                "requests of 1 joined into batches of": sorted(
                    {int(line[2]) for line in batches if line[2] == line[4]}
                ),
                "text that is no UTF-8": refused,
            },
            indent=2,
        )
    )


def _lowest(got: Any, expected: Any) -> float:
    return float((got * expected).sum(axis=1).min())


def _stand_in(folder: Path) -> None:
    config = folder / "config.pbtxt"
    text = config.read_text().replace('platform: "onnxruntime_onnx"\nbackend: "onnxruntime"', 'backend: "python"')
    config.write_text(text)
    (folder / "1" / "model.py").write_text(STAND_IN)


def _server(venv: Path, repository: Path, folder: Path, log: Any) -> subprocess.Popen[bytes]:
    """The server of nvidia-pytriton, its Python back end with the process for that environment's Python."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    packages = venv.absolute() / "lib" / f"python{version}" / "site-packages"
    home = packages / "pytriton" / "tritonserver"
    backends = folder / "backends"
    shutil.copytree(home / "backends", backends)
    shutil.copy2(home / "python_backend_stubs" / version / "triton_python_backend_stub", backends / "python")
    environment = os.environ | {
        "LD_LIBRARY_PATH": f"{packages / 'nvidia_pytriton.libs'}:{sysconfig.get_config_var('LIBDIR')}",
        "PATH": f"{venv.absolute() / 'bin'}:{os.environ['PATH']}",  # where the embedded Python looks for its packages
    }
    options = {
        "model-repository": repository,
        "backend-directory": backends,
        "http-address": "127.0.0.1",
        "http-port": PORTS[0],
        "grpc-address": "127.0.0.1",
        "grpc-port": PORTS[1],
        "allow-metrics": "false",
    }
    return subprocess.Popen(
        [home / "bin" / "tritonserver", *(f"--{name}={value}" for name, value in options.items())],
        env=environment,
        stdout=log,
        stderr=log,
    )


def _ready(server: subprocess.Popen[bytes], log: Path) -> str:
    """Triton's version, once all models are loaded."""
    for _ in range(60):
        if server.poll() is not None:
            break
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{PORTS[0]}/v2/health/ready", timeout=5).close()
            with urllib.request.urlopen(f"http://127.0.0.1:{PORTS[0]}/v2", timeout=5) as answer:
                return str(json.load(answer)["version"])
        except OSError:
            time.sleep(1)
    raise SystemExit("Triton did not load the repository:\n" + "\n".join(log.read_text().splitlines()[-60:]))


def _ask(texts: list[str]) -> Any:
    return np.float32(_post([{"name": "text", "shape": [len(texts), 1], "datatype": "BYTES", "data": texts}], b""))


def _refused() -> str:
    """What a client is told whose text is no UTF-8."""
    raw = b"\x01\x00\x00\x00\xff"
    tensor = {"name": "text", "shape": [1, 1], "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}
    try:
        _post([tensor], raw)
    except urllib.error.HTTPError as error:
        return f"{error.code}: {json.load(error)['error']}"
    return "was taken"


def _post(inputs: list[dict[str, Any]], raw: bytes) -> Any:
    head = json.dumps({"inputs": inputs}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{PORTS[0]}/v2/models/encoder/infer", head + raw)
    if raw:
        request.add_header("Inference-Header-Content-Length", str(len(head)))
    with urllib.request.urlopen(request, timeout=60) as answer:
        output = json.load(answer)["outputs"][0]
    return np.reshape(output["data"], output["shape"])


if __name__ == "__main__":
    main()
