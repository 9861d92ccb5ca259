"""Work over a Ray cluster of this machine: two workers, some of which are killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from canaries import WITHOUT_VNNI, found_exact
from shell import Shell
from stops import Stopped, StopsAt

import calib8
from calib8.calibration import checkpoint, over_ray
from calib8.calibration.origin import origin_of
from calib8.cluster import spread
from calib8.cluster.session import ENVIRONMENT
from calib8.data.batching import Dataset
from calib8.data.sources import Batches
from calib8.errors import DataError, InputError, SetupError
from calib8.graph.io import source_sha256
from calib8.graph.weighted import weighted_ops
from calib8.passes.insert_qdq import insert_qdq
from calib8.passes.prepare import prepare
from calib8.runtime import cpu
from calib8.runtime.choice import CpuChoice
from calib8.runtime.processor import versions
from calib8.testing import tiny_encoder
from calib8.text import embed_corpus

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install '.[ray]'"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Ray sets deprecated options of its own
]

RAY = calib8.Ray()
#: One worker, which starts in half the time, where several would prove no more.
ONE = calib8.Ray(cpus=2)
ROWS = 90


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """What is connected is used: one start for all tests of this file."""
    os.environ.update(ENVIRONMENT)
    import ray

    handler = signal.getsignal(signal.SIGTERM)
    options = {"num_cpus": 2, "object_store_memory": 80_000_000}
    ray.init(address="local", include_dashboard=False, log_to_driver=False, **options)  # not one that runs here already
    yield
    ray.shutdown()
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def model(tokenizer_folder: Path) -> Path:
    ir.save(tiny_encoder(), tokenizer_folder / "model.onnx")
    return tokenizer_folder / "model.onnx"


@pytest.fixture
def corpus(tmp_path: Path) -> list[Path]:
    """Three files of 30 rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = ["".join(np.random.default_rng(row).choice(list("abcde "), 9)) + "e" for row in range(ROWS)]
    pq.write_table(pa.table({"text": texts[:30]}), tmp_path / "a.parquet")
    (tmp_path / "b.jsonl").write_text("".join(f'{{"text": "{text}"}}\n' for text in texts[30:60]))
    (tmp_path / "c.txt").write_text("\n".join(texts[60:]))
    return [tmp_path / name for name in ("a.parquet", "b.jsonl", "c.txt")]


def dying(worker: type[Any], mark: Path) -> type[Any]:
    """``worker``, whose process is killed once, when it has done an item and not yet said so."""

    class Dying(worker):  # type: ignore[misc]
        def __call__(self, item: Any) -> Any:
            answer = super().__call__(item)
            if (item.get("first") or item.get("batches", [0])[0]) and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return answer

    return Dying


def table(folder: Path) -> Any:
    import pyarrow.parquet as pq

    return pq.read_table(folder).sort_by("id")


def vectors(folder: Path) -> np.ndarray:
    return np.array(table(folder)["embedding"].to_pylist(), np.float32)


def data() -> dict[str, np.ndarray]:
    """2,000 ragged samples: enough for five shares."""
    random = np.random.default_rng(0)
    lengths = random.integers(2, 17, 2000)
    return {
        "input_ids": random.integers(4, 9, (2000, 16)),
        "attention_mask": (np.arange(16) < lengths[:, None]).astype(np.int64),
    }


@pytest.mark.usefixtures("cluster")
def test_ranges_are_those_of_one_machine_even_if_a_worker_is_killed(
    model: Path, tmp_path: Path, notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(over_ray, "Observation", dying(over_ray.Observation, tmp_path / "died"))
    config = calib8.Calibrate(observer="entropy")
    for name, ray in (("one", None), ("many", RAY)):
        output, cache = tmp_path / f"{name}.json", tmp_path / f"{name}.cache"
        calib8.calibrate(model, data(), config, output=output, cache=cache, cluster=ray, progress=notes)
    assert (tmp_path / "died").exists()
    assert (tmp_path / "many.json").read_bytes() == (tmp_path / "one.json").read_bytes()
    assert (tmp_path / "many.cache").read_bytes() == (tmp_path / "one.cache").read_bytes()
    assert ("calibrate", 2000, 2000) in notes.steps[-6:]


@pytest.mark.usefixtures("cluster")
def test_a_conversion_is_that_of_one_machine(model: Path, tmp_path: Path) -> None:
    for name, ray in (("one", None), ("many", RAY)):
        config = calib8.Convert(build=None, verify=calib8.Verify(), budget=0.9, ray=ray)
        calib8.convert(model, data(), tmp_path / name, config)
    for made in ("ranges.json", "plan.json", "model.int8.onnx"):
        assert (tmp_path / "many" / made).read_bytes() == (tmp_path / "one" / made).read_bytes()


def test_a_share_costs_its_own_batches_only(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, read = Batches(data()), list[int]()
    origin = origin_of(source_sha256(model), source.fingerprint(), calib8.Calibrate())
    worker = over_ray.Observation(model, source, calib8.Calibrate(), origin, 0, 1)
    batch = Dataset.batch
    monkeypatch.setattr(Dataset, "batch", lambda own, group: read.append(len(group.rows)) or batch(own, group))
    monkeypatch.setattr("calib8.data.batching.by_token_budget", lambda *_: pytest.fail("the data were cut again"))
    assert worker({"batches": [35, 36, 37]})
    assert len(read) == 3


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(("first", "then"), [(ONE, None), (None, ONE), (RAY, RAY)])
def test_a_stopped_calibration_goes_on_with_or_without_ray(
    model: Path, tmp_path: Path, notes, monkeypatch: pytest.MonkeyPatch, first: Any, then: Any
) -> None:
    monkeypatch.setattr(checkpoint, "INTERVAL", -1.0)
    calib8.calibrate(model, data(), output=tmp_path / "whole.json")
    with pytest.raises(Stopped):
        calib8.calibrate(model, data(), output=tmp_path / "two.json", cluster=first, progress=StopsAt(1000))
    calib8.calibrate(model, data(), output=tmp_path / "two.json", cluster=then, progress=notes)
    assert notes.messages[0].startswith("going on where an earlier run stopped: ")
    assert notes.steps[0][1] > 0
    assert (tmp_path / "two.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert not (tmp_path / "two.json.unfinished").exists()


@pytest.mark.usefixtures("cluster")
def test_every_row_is_embedded_once_even_if_a_worker_is_killed(
    model: Path, corpus: list[Path], tmp_path: Path, notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed_corpus, "Embedder", dying(embed_corpus.Embedder, tmp_path / "died"))
    config = calib8.Corpus(part_rows=8, keep_text=True)
    parts = calib8.embed_corpus(model, corpus, tmp_path / "out", config, progress=notes)
    found = table(tmp_path / "out")
    texts = found["text"].to_pylist()
    assert (tmp_path / "died").exists()
    assert len(parts) == 3 * 4  # 8 + 8 + 8 + 6 rows of each file
    assert found["id"].to_pylist() == list(range(ROWS))
    assert texts[30:60] == [line.split('"')[3] for line in corpus[1].read_text().splitlines()]
    np.testing.assert_allclose(vectors(tmp_path / "out"), calib8.embed(model, texts), atol=1e-6)
    assert str(found.schema.field("embedding").type) == "fixed_size_list<element: float>[8]"
    assert notes.steps[-1] == ("embed", ROWS, ROWS)


def linked(blob: Path, name: str) -> Path:
    """A link called ``name``, as in the Hugging Face cache, to a file moved where nothing lies beside it."""
    moved, link = blob.parent / "blobs" / name.encode().hex(), blob.parent / "snapshot" / name
    for folder in (moved.parent, link.parent):
        folder.mkdir(exist_ok=True)
    blob.rename(moved)
    link.symlink_to(moved)
    return link


@pytest.mark.usefixtures("cluster")
def test_links_are_followed_only_to_be_read(
    model: Path, corpus: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link's name has the suffix, and beside it are tokenizer, external data and the files of other inputs."""
    expected = calib8.calibrate(model, data())
    ir.save(tiny_encoder(), model, external_data="model.data", size_threshold_bytes=0)
    for name in ("model.data", "tokenizer.json"):
        linked(model.with_name(name), name)
    model = linked(model, "model.onnx")
    texts = linked(corpus[0], "a.parquet")
    monkeypatch.chdir(model.parent)  # workers are in another folder
    [part] = calib8.embed_corpus(model.name, [texts], tmp_path / "out")
    assert part.exists()
    assert calib8.calibrate(model.name, data(), cluster=ONE).tensors == expected.tensors


@pytest.mark.usefixtures("cluster")
def test_after_a_kill_the_missing_parts_are_made(model: Path, corpus: list[Path], tmp_path: Path, notes) -> None:
    """The driver of a cluster of its own is killed as soon as there is a part."""
    output = tmp_path / "out"
    arguments = ["embed", model, *corpus, "--ray", "local", "-o", output, "--part-rows", 1, "-q"]
    driver = subprocess.Popen([sys.executable, "-m", "calib8", *map(str, arguments)], start_new_session=True)
    wait_for_a_part(driver, output)
    driver.kill()
    driver.wait()
    wait_for_end_of(driver.pid)
    (output / ".part-000000.parquet.0123456789abcdef.part").write_bytes(b"half")
    before = {path: path.stat().st_mtime_ns for path in output.glob("part-*.parquet")}
    assert 0 < len(before) < ROWS
    parts = calib8.embed_corpus(model, corpus, output, calib8.Corpus(part_rows=1), progress=notes)
    assert notes.messages == [f"{len(before)} of {ROWS} parts are there already"]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert sorted(output.iterdir()) == [output / "_embeddings.json", *parts]
    assert table(output)["id"].to_pylist() == list(range(ROWS))


@pytest.mark.usefixtures("cluster")
def test_what_tune_finds_meanwhile_is_not_mixed_in(
    model: Path, corpus: list[Path], tmp_path: Path, notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    first, *others = calib8.embed_corpus(model, corpus, output, calib8.Corpus(part_rows=30))
    whole = vectors(output)
    assert json.loads((output / "_embeddings.json").read_text())["cpu"]["runtime"] == "onnxruntime"
    for part in others:
        part.unlink()
    tuned = CpuChoice(runtime="openvino", form="s8", streams=1, bf16=True)
    monkeypatch.setattr(cpu, "remembered", lambda _: tuned)
    calib8.embed_corpus(model, corpus, output, calib8.Corpus(part_rows=30), progress=notes)
    assert notes.messages[0] == (
        "going on with ONNX Runtime, FP32, 1 stream, as in the earlier run; for OpenVINO, s8, bf16, 1 stream choose "
        "another folder"
    )
    np.testing.assert_array_equal(vectors(output), whole)
    assert first.exists()


@pytest.mark.parametrize("damage", [None, {}, {"runtime": "none"}])
def test_parts_of_an_unknown_arithmetic_are_left_alone(tmp_path: Path, damage: object) -> None:
    made_by = {"model": "m"}
    (tmp_path / "_embeddings.json").write_text(json.dumps({**made_by, "cpu": damage}))
    with pytest.raises(InputError, match="of another run: what differs is cpu"):
        embed_corpus._continue(tmp_path, made_by, CpuChoice(runtime="onnxruntime", form="fp32", streams=1))


def test_embeddings_of_other_versions_are_not_mixed(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = calib8.Corpus()
    made_by = embed_corpus._made_by(model, model.parent, config)
    assert made_by["packages"]["onnxruntime"] == version("onnxruntime")
    choice = CpuChoice(runtime="onnxruntime", form="fp32", streams=1)
    embed_corpus._continue(tmp_path, made_by, choice)
    monkeypatch.setattr(embed_corpus, "versions", lambda: {**versions(), "onnxruntime": "0.0.1"})
    with pytest.raises(InputError, match="of another run: what differs is packages"):
        embed_corpus._continue(tmp_path, embed_corpus._made_by(model, model.parent, config), choice)
    with pytest.raises(
        SetupError,
        match="differs from this machine in packages, .* Give all machines the same files and",
    ):
        embed_corpus.Embedder(model, model.parent, config, made_by, choice, 1)


def test_a_worker_without_the_units_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed_corpus, "has_bf16", lambda: False)
    found_exact(monkeypatch, *WITHOUT_VNNI)
    model = prepare(tiny_encoder())
    ops = weighted_ops(model)
    insert_qdq(model, ops, {op.activation.name: 4.0 for op in ops})
    choice = CpuChoice(runtime="onnxruntime", form="u8", streams=1)
    assert embed_corpus._here(model, choice).form == "u8u8"
    assert embed_corpus._here(prepare(tiny_encoder()), choice).form == "u8"  # has no codes to multiply
    with pytest.raises(SetupError, match="has no bf16 units for ONNX Runtime, u8, bf16, 1 stream"):
        embed_corpus._here(model, choice.model_copy(update={"bf16": True}))
    found_exact(monkeypatch, *(("openvino", form) for form in ("s8", "u8", "u8u8")))
    with pytest.raises(SetupError, match="OpenVINO has no form of INT8 that is exact on this CPU"):
        embed_corpus._here(model, choice.model_copy(update={"runtime": "openvino"}))


def wait_for_a_part(driver: "subprocess.Popen[bytes]", output: Path) -> None:
    deadline = time.monotonic() + 180
    while not any(output.glob("part-*.parquet")):
        assert driver.poll() is None
        assert time.monotonic() < deadline, "no part was made"
        time.sleep(0.005)


def wait_for_end_of(session: int) -> None:
    """Wait until no process of the session is left, but for Ray's two agents, which take a minute: end those."""
    deadline = time.monotonic() + 30
    while left := processes(session):
        assert time.monotonic() < deadline, f"still there: {left}"
        if all(title.endswith("Agent") for title in left.values()):
            for process in left:
                os.kill(process, signal.SIGKILL)
        time.sleep(0.1)


def processes(session: int) -> dict[int, str]:
    """Number -> title of what runs in the session."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, own = (process / "stat").read_text().rpartition(")")[2].split()[:4]
            if state != "Z" and int(own) == session:
                found[int(process.name)] = (process / "cmdline").read_text().rstrip("\0")
        except OSError:  # it has ended
            pass
    return found


@pytest.mark.usefixtures("cluster")
def test_what_is_wrong_in_a_worker_is_told_here(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    [part] = embed_corpus.parts([tmp_path / "a.jsonl"], 9, "text")
    monkeypatch.setattr(embed_corpus, "parts", lambda *_: [replace(part, rows=2)])  # as if a row were gone since
    with pytest.raises(DataError, match="changed while it was read: 1 rows where 2 were"):
        calib8.embed_corpus(model, [tmp_path / "a.jsonl"], tmp_path / "out")


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (
            PermissionError(13, "Permission denied", "/mnt/a"),
            "on .*, could not read or write .*denied: '/mnt/a'.*check",
        ),
        (MemoryError("512 MiB"), r"on .*, ran out of memory \(512 MiB\). Give workers less to do at a time"),
    ],
)
def test_what_a_workers_machine_lacks_is_no_bug(failure: Exception, message: str) -> None:
    class Failing:
        def __call__(self, item: Any) -> bytes:
            raise failure

    with pytest.raises(SetupError, match=message):
        list(spread.spread(RAY, Failing, [{}]))


def test_a_row_without_a_text_is_told_before_the_first_part(model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": null}\n')
    with pytest.raises(DataError, match="'text' of the line .* is None, expected a text"):
        calib8.embed_corpus(model, [tmp_path / "a.jsonl"], tmp_path / "out", calib8.Corpus(part_rows=1))
    assert not (tmp_path / "out").exists()  # the first row is fine, and no part was made of it


def test_no_corpus_is_no_embeddings(model: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file of texts was named"):
        calib8.embed_corpus(model, [], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(SetupError, match="is a file, expected a folder"):
        calib8.embed_corpus(model, [model], model)


@pytest.mark.usefixtures("cluster")
def test_a_folder_of_other_embeddings_is_left_alone(model: Path, corpus: list[Path], tmp_path: Path) -> None:
    calib8.embed_corpus(model, corpus[2:], tmp_path / "out")
    others = [(inputs, calib8.Corpus(), "inputs") for inputs in (corpus, [*corpus[2:], *corpus[2:]])]
    for inputs, config, what in (*others, (corpus[2:], calib8.Corpus(part_rows=7), "set")):
        with pytest.raises(InputError, match=f"of another run: what differs is {what}"):
            calib8.embed_corpus(model, inputs, tmp_path / "out", config)
    calib8.embed_corpus(model, corpus[:2], tmp_path / "both", cluster=ONE)
    with pytest.raises(InputError, match="what differs is inputs"):  # whose rows would have other numbers
        calib8.embed_corpus(model, corpus[1::-1], tmp_path / "both")
    (tmp_path / "out" / "_embeddings.json").unlink()
    with pytest.raises(InputError, match="what differs is its record, which is missing"):
        calib8.embed_corpus(model, corpus[2:], tmp_path / "out")


@pytest.mark.usefixtures("cluster")
def test_a_worker_that_finds_another_model_says_so(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Elsewhere(over_ray.Observation):
        def __init__(self, path: Path, *others: Any) -> None:
            ir.save(tiny_encoder(width=16), path)
            super().__init__(path, *others)

    monkeypatch.setattr(over_ray, "Observation", Elsewhere)
    with pytest.raises(SetupError, match="another state of the model than this machine"):
        calib8.calibrate(model, data(), cluster=ONE)


@pytest.mark.usefixtures("cluster")
def test_a_cluster_without_room_for_a_worker_is_refused(model: Path) -> None:
    with pytest.raises(
        SetupError, match="a worker needs 64 CPUs of one node; the nodes .* have 2 CPUs and 0 GPUs. Give"
    ):
        calib8.calibrate(model, data(), cluster=calib8.Ray(cpus=64))


def test_a_worker_has_to_fit_on_one_node(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def node(cpus: float, gpus: float = 0, *, alive: bool = True) -> dict[str, Any]:
        resources = {name: number for name, number in (("CPU", cpus), ("GPU", gpus)) if number}
        return {"Alive": alive, "Resources": resources if alive else {}}

    nodes = [node(3), node(5), node(0, 4), node(4, 1), node(64, 8, alive=False)]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    assert [spread._places(calib8.Ray(cpus=cpus), False) for cpus in (1, 2, 3, 4, 5)] == [12, 5, 3, 2, 1]
    assert spread._places(calib8.Ray(cpus=2), True) == 1  # a GPU, and CPUs beside it
    with pytest.raises(SetupError, match="a worker needs 6 CPUs of one node; .* 3 CPUs and 0 GPUs, 5 CPUs and 0 GPUs"):
        spread._places(calib8.Ray(cpus=6), False)  # though there are 12
    with pytest.raises(SetupError, match="a worker needs 5 CPUs and a GPU of one node"):
        spread._places(calib8.Ray(cpus=5), True)
    nodes *= 4
    with pytest.raises(SetupError, match="4 CPUs and 1 GPUs and 8 more. Give workers fewer CPUs, or add larger nodes"):
        spread._places(calib8.Ray(cpus=6), False)


def test_without_ray_it_says_what_to_install(model: Path, corpus: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(SetupError, match=r"Ray is not installed. Install it: pip install '\.\[ray\]'"):
        calib8.embed_corpus(model, corpus, "never")


def test_ctrl_c_ends_the_cluster_and_leaves_nothing_half_written(model: Path, corpus: list[Path]) -> None:
    output = model.parent / "out"
    arguments = ["embed", model, *corpus, "--ray", "local", "-o", output, "--part-rows", 1, "-q"]
    driver = subprocess.Popen([sys.executable, "-m", "calib8", *map(str, arguments)], start_new_session=True)
    wait_for_a_part(driver, output)
    left = output / ".part-000000.parquet.0123456789abcdef.part"
    left.write_bytes(b"half")  # as a worker leaves it that Ray kills at the wrong moment
    os.killpg(driver.pid, signal.SIGINT)
    assert driver.wait(30) == 130
    wait_for_end_of(driver.pid)
    assert not list(output.glob(".part-*"))


def test_the_command_line_asks_for_a_folder(calib8: Shell, model: Path) -> None:
    code, _, stderr = calib8("embed", model, "--ray", "local")
    assert (code, "name both (-o)" in stderr) == (2, True)
