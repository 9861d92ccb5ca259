"""Work that was stopped, by an exception or by SIGKILL, goes on and comes to the same result, to the bit."""

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stops import Stopped, StopsAt

import calib8
from calib8.calibration import checkpoint as module
from calib8.calibration import state
from calib8.calibration.checkpoint import Checkpoint
from calib8.calibration.collect import Collector, collect
from calib8.calibration.observed import Observed
from calib8.calibration.statistics import TensorStatistics
from calib8.data.batching import Dataset
from calib8.data.sources import Batches
from calib8.errors import InputError, SetupError
from calib8.graph.inputs import declared_inputs
from calib8.graph.io import save
from calib8.passes.prepare import prepare
from calib8.progress import Quiet
from calib8.quantization import apply
from calib8.quantization.solve import solve
from calib8.resume import beside, unfinished_step, unfinished_work, within
from calib8.testing import tiny_convnet, tiny_encoder, token_feeds


def tokens(model: ir.Model) -> Dataset:
    """Seven batches of unequal lengths."""
    return Dataset(Batches([token_feeds(*lengths) for lengths in [(3, 9)] * 3 + [(4,), (12, 2, 5), (6,), (2,)]]),
                   declared_inputs(model))  # fmt: skip


def images(model: ir.Model) -> Dataset:
    random = np.random.default_rng(0)
    return Dataset(Batches([{"image": random.normal(size=(5, 3, 8, 8)).astype(np.float32)} for _ in range(7)]),
                   declared_inputs(model))  # fmt: skip


@pytest.fixture(scope="module", params=["encoder", "convnet"])
def case(request: pytest.FixtureRequest) -> tuple[ir.Model, Dataset]:
    if request.param == "encoder":
        return (model := prepare(tiny_encoder())), tokens(model)
    return (model := prepare(tiny_convnet())), images(model)


def bits(statistics: dict[str, TensorStatistics]) -> bytes:
    """All of it; rows in the order of their coordinates, which is all that anybody sees of theirs."""
    arrays = state.to_state(statistics)
    for key in [key for key in arrays if key.endswith(".coordinates")]:
        order = np.lexsort(arrays[key].T[::-1])
        sample = key.removesuffix(".coordinates")
        for part in ("coordinates", "rows", "exponents"):
            arrays[f"{sample}.{part}"] = arrays[f"{sample}.{part}"][order]
    return b"".join(key.encode() + array.tobytes() for key, array in arrays.items())


@pytest.mark.parametrize("stop", range(1, 8))
def test_a_stopped_pass_goes_on(
    case: tuple[ir.Model, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, notes, stop: int
) -> None:
    model, data = case
    monkeypatch.setattr(module, "INTERVAL", -1.0)  # keep what was done after every batch
    whole = collect(model, data, Quiet(), sample=20, histograms=True)
    done = sum(len(rows) for rows, _ in list(data.batches())[:stop])
    with pytest.raises(Stopped):
        collect(model, data, StopsAt(done), sample=20, histograms=True, checkpoint=Checkpoint(tmp_path))
    again = collect(model, data, notes, sample=20, histograms=True, checkpoint=Checkpoint(tmp_path))
    assert bits(again) == bits(whole)
    kept = sum(len(rows) for rows, _ in list(data.batches())[: stop - 1])  # stopped before the last batch was kept
    assert notes.steps[0] == ("calibrate", kept, len(data))
    finished = collect(model, data, Quiet(), sample=20, histograms=True, checkpoint=Checkpoint(tmp_path))
    assert bits(finished) == bits(whole)


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_pass_keeps_what_it_did(
    case: tuple[ir.Model, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, notes, end: type[BaseException]
) -> None:
    """After a batch; in the midst of one's statistics nothing can be kept, and nothing is."""
    model, data = case
    whole = collect(model, data, Quiet(), sample=20, histograms=True)
    three = sum(len(rows) for rows, _ in list(data.batches())[:3])
    counted = iter(range(10**6))

    def add(tensor: Observed, *arguments: object) -> None:
        if next(counted) == 3 * len(whole) + 1:
            raise end
        before(tensor, *arguments)

    def stopped(folder: str, progress: Quiet) -> float:
        """How many samples the run after the one that was stopped begins with."""
        kept = partial(collect, model, data, sample=20, histograms=True)
        with pytest.raises(end):
            kept(progress, checkpoint=Checkpoint(tmp_path / folder))
        monkeypatch.undo()
        assert bits(kept(notes, checkpoint=Checkpoint(tmp_path / folder))) == bits(whole)
        done, notes.steps = notes.steps[0][1], []
        return float(done)

    assert stopped("between", StopsAt(three, end)) == three
    before = Observed.add
    monkeypatch.setattr(Observed, "add", add)
    assert stopped("within", Quiet()) == 0


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_shares_merge_to_the_whole(case: tuple[ir.Model, Dataset], data: st.DataObject) -> None:
    """Whoever runs which batches, in whatever order they are merged."""
    model, source = case
    batches = list(source.batches())
    owners = data.draw(st.lists(st.integers(0, 2), min_size=len(batches), max_size=len(batches)))
    order = data.draw(st.permutations(sorted(set(owners))))
    with Collector(model, source, sample=20, histograms=True) as collector:
        for batch in batches:
            collector.add(*batch)
        whole = bits(collector.take())
        parts = {}
        for owner in set(owners):
            for batch in (batch for batch, other in zip(batches, owners, strict=True) if other == owner):
                collector.add(*batch)
            parts[owner] = collector.take()
    merged = {name: TensorStatistics() for name in parts[order[0]]}
    for owner in order:
        for name, seen in parts[owner].items():
            merged[name].merge(seen)
    assert bits(merged) == whole


def test_statistics_come_back_from_bytes(case: tuple[ir.Model, Dataset]) -> None:
    found = collect(*case, Quiet(), sample=20, histograms=True)
    assert bits(state.from_bytes(state.to_bytes(found))) == bits(found)


def test_what_other_work_left_is_thrown_away(tmp_path: Path, notes) -> None:
    with unfinished_step(tmp_path / "a", {"of": [1, "x"]}, Quiet()) as folder:
        (folder / "part").touch()
    with unfinished_step(tmp_path / "a", {"of": [1, "x"]}, Quiet()):
        assert (folder / "part").exists()
    with unfinished_step(tmp_path / "a", {"of": [2, "x"]}, notes):
        assert not (folder / "part").exists()
        (folder / "part").touch()
    [said] = notes.messages
    assert re.fullmatch("starting anew: what an earlier run kept in .*a was done with other data, settings or .*", said)
    (folder / "key.json").write_text("{")
    with unfinished_step(tmp_path / "a", {"of": [2, "x"]}, Quiet()):
        assert not (folder / "part").exists()


def test_work_that_kept_nothing_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(Stopped), unfinished_step(tmp_path / "a", {"of": 1}, Quiet()):
        raise Stopped
    assert not any(tmp_path.iterdir())


DAMAGES = [lambda content: b"", lambda content: content[:-100], lambda content: b"\0" * len(content),
           lambda content: content[: len(content) // 2] + b"\1\2\3\4" + content[len(content) // 2 + 4 :]]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES, ids=["empty", "cut", "zero", "changed"])
def test_a_part_that_cannot_be_read_is_done_again(
    case: tuple[ir.Model, Dataset],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    notes,
    damage: Callable[[bytes], bytes],
) -> None:
    """As a loss of power leaves it: the name is there, the content is not."""
    model, data = case
    monkeypatch.setattr(module, "INTERVAL", -1.0)
    whole = collect(model, data, Quiet(), sample=20, histograms=True)
    sizes = [len(rows) for rows, _ in data.batches()]
    with pytest.raises(Stopped):
        collect(model, data, StopsAt(sum(sizes[:5])), sample=20, histograms=True, checkpoint=Checkpoint(tmp_path))
    part = tmp_path / "part-00000001.npz"
    part.write_bytes(damage(part.read_bytes()))
    again = collect(model, data, notes, sample=20, histograms=True, checkpoint=Checkpoint(tmp_path))
    assert bits(again) == bits(whole)
    assert notes.steps[0] == ("calibrate", sum(sizes[:4]) - sizes[1], len(data))


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder with model and data."""
    save(tiny_encoder(), tmp_path / "model.onnx")
    (tmp_path / "data").mkdir()
    for name, array in token_feeds(*[8] * 40).items():
        np.save(tmp_path / "data" / f"{name}.npy", array)
    return tmp_path


def commands(work: Path) -> list[tuple[Path, Callable[[], object]]]:
    """(where it keeps unfinished work, the command), for each that does."""
    model, data, ranges = work / "model.onnx", work / "data", work / "ranges.json"
    config = calib8.Convert(build=None, verify=calib8.Verify(min_cosine=0.5))
    return [
        (beside(ranges), partial(calib8.calibrate, model, data, output=ranges)),
        (beside(work / "q.onnx"), partial(calib8.quantize_file, model, ranges, work / "q.onnx", data=data)),
        (within(work / "out"), partial(calib8.convert, model, data, work / "out", config)),
    ]


def test_a_folder_of_somebody_else_is_left_alone(work: Path) -> None:
    (work / "out" / "unfinished").mkdir(parents=True)  # a name that anybody may choose
    (work / "out" / "unfinished" / "thesis.txt").touch()
    for kept, command in commands(work):
        kept.mkdir()
        (kept / "thesis.txt").touch()
        with pytest.raises(InputError, match="holds files that calib8 did not make, .* Move that folder away, or"):
            command()
        assert [path.name for path in kept.iterdir()] == ["thesis.txt"]
        (kept / "thesis.txt").unlink()  # an empty one may be used
        command()
        assert not kept.exists()
    assert (work / "out" / "unfinished" / "thesis.txt").exists()


def test_what_a_run_left_that_was_killed_at_its_end_goes(work: Path) -> None:
    """Between saving the result and removing the folder: the next run finds the result."""
    (calibrated, calibrate), _, (converted, convert) = commands(work)
    for kept, command in ((calibrated, calibrate), (converted, convert)):
        command()
        with unfinished_work(kept):
            shutil.copytree(kept, work / "copy")
        (work / "copy").rename(kept)
        command()
        assert not kept.exists()
        kept.mkdir()
        (kept / "thesis.txt").touch()
        command()
        assert (kept / "thesis.txt").exists()


CONVERT = """
import os, signal, sys
from pathlib import Path
from calib8.calibration import checkpoint
from calib8.conversion.config import Convert
from calib8.conversion.run import convert
from calib8.data.sources import NpyFolder
from calib8.progress import Quiet
from calib8.verification.config import Verify

class Kills(Quiet):
    def update(self, stage, done, total):
        if stage == sys.argv[3] and done >= int(sys.argv[4]):
            os.kill(os.getpid(), signal.SIGKILL)

checkpoint.INTERVAL = -1.0
config = Convert(build=None, verify=Verify(min_cosine=0.5))
convert(Path(sys.argv[1]) / "model.onnx", NpyFolder(Path(sys.argv[1])), Path(sys.argv[2]), config, progress=Kills())
"""


def test_a_killed_conversion_goes_on(tmp_path: Path) -> None:
    """Killed in the pass, killed again while it solves sites: the third run ends where an undisturbed one does."""
    save(tiny_encoder(), tmp_path / "model.onnx")
    for name, array in token_feeds(*[8] * 400).items():
        np.save(tmp_path / f"{name}.npy", array)

    def run(output: str, stage: str, at: int) -> int:
        command = [sys.executable, "-c", CONVERT, str(tmp_path), str(tmp_path / output), stage, str(at)]
        return subprocess.run(command, check=False).returncode

    assert run("whole", "never", 0) == 0
    assert run("killed", "calibrate", 250) == -signal.SIGKILL
    assert list((tmp_path / "killed" / ".calib8-unfinished" / "pass").glob("part-*.npz"))
    assert run("killed", "quantize", 2) == -signal.SIGKILL
    assert len(list((tmp_path / "killed" / ".calib8-unfinished" / "sites").glob("site-*.npz"))) == 2
    assert run("killed", "never", 0) == 0
    assert not (tmp_path / "killed" / ".calib8-unfinished").exists()
    for name in ("model.int8.onnx", "ranges.json", "plan.json", "calibration.cache"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


QUANTIZE = """
import os, signal, sys
from pathlib import Path

import calib8
from calib8.calibration import checkpoint
from calib8.progress import Quiet

class Kills(Quiet):
    def update(self, stage, done, total):
        if stage == sys.argv[3] and done >= int(sys.argv[4]):
            os.kill(os.getpid(), signal.SIGKILL)

checkpoint.INTERVAL = -1.0
work, output = Path(sys.argv[1]), Path(sys.argv[2])
calib8.quantize_file(work / "model.onnx", work / "ranges.json", output, data=work, progress=Kills())
"""


def test_a_killed_quantize_goes_on(tmp_path: Path) -> None:
    """Killed in its pass and while it solves sites, given other data in between, of which nothing is mixed in."""
    work = tmp_path / "work"
    work.mkdir()
    save(tiny_encoder(), work / "model.onnx")

    def feeds(seed: int) -> None:
        for name, array in token_feeds(*[8] * 400, seed=seed).items():
            np.save(work / f"{name}.npy", array)

    def run(output: str, stage: str, at: int) -> int:
        command = [sys.executable, "-c", QUANTIZE, str(work), str(tmp_path / output), stage, str(at)]
        return subprocess.run(command, check=False).returncode

    feeds(0)
    calib8.calibrate(work / "model.onnx", work, output=work / "ranges.json")
    assert run("whole.onnx", "never", 0) == 0
    kept = tmp_path / "killed.onnx.unfinished"
    assert run("killed.onnx", "calibrate", 250) == -signal.SIGKILL
    feeds(1)
    assert run("killed.onnx", "calibrate", 250) == -signal.SIGKILL
    assert len(list(kept.glob("data-*/pass"))) == 2
    feeds(0)
    assert run("killed.onnx", "quantize", 2) == -signal.SIGKILL
    assert len(list(kept.glob("data-*/sites/site-*.npz"))) == 2
    assert run("killed.onnx", "never", 0) == 0
    assert not kept.exists()
    assert (tmp_path / "killed.onnx").read_bytes() == (tmp_path / "whole.onnx").read_bytes()


def test_two_runs_do_not_share_unfinished_work(tmp_path: Path) -> None:
    with unfinished_work(tmp_path / "a"):
        refusal = r"another run is at work in .*a\. Wait until it has ended, or choose another output"
        with pytest.raises(SetupError, match=refusal), unfinished_work(tmp_path / "a"):
            pass
        assert (tmp_path / "a").is_dir()
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("keeps", [True, False])
def test_unfinished_work_stays_only_if_something_was_kept(tmp_path: Path, keeps: bool) -> None:
    def work() -> None:
        with unfinished_work(tmp_path / "a") as whole:
            assert whole is not None
            with unfinished_step(whole / "pass", {"of": 1}, Quiet()) as folder:
                if keeps:
                    (folder / "part").touch()
                raise Stopped

    with pytest.raises(Stopped):
        work()
    assert (tmp_path / "a").exists() == keeps


def test_solved_sites_are_not_solved_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, notes) -> None:
    model = prepare(tiny_encoder())
    data = Dataset(Batches([token_feeds(*[8] * 50)]), declared_inputs(model))
    statistics = collect(model, data, Quiet(), sample=400)
    names = {op.name for op in apply.weighted_ops(model)}
    solved: list[str] = []

    def counted(seen: TensorStatistics, site: apply.Site, **options):  # type: ignore[no-untyped-def]
        solved.append(site.name)
        return solve(seen, site, **options)

    monkeypatch.setattr(apply, "solve", counted)
    with pytest.raises(Stopped):
        apply.solve_sites(model, names, statistics, StopsAt(2), tmp_path)
    found = apply.solve_sites(model, names, statistics, notes, tmp_path)
    assert len(solved) == len(set(solved)) == 4
    assert notes.messages == ["going on where an earlier run stopped: 2 of 4 groups of ops are quantised"]
    assert notes.steps == [("quantize", done, 4) for done in (2, 3, 4)]  # no rate counts the first two
    (tmp_path / "site-0001.npz").write_bytes(b"")
    apply.solve_sites(model, names, statistics, Quiet(), tmp_path)
    assert solved[4:] == [solved[1]]
    plain = apply.solve_sites(model, names, statistics, Quiet())
    for name, solution in found.items():
        assert (solution.trial, solution.trials) == (plain[name].trial, plain[name].trials)
        for op, weight in solution.quantised.weights.items():
            np.testing.assert_array_equal(weight.codes, plain[name].quantised.weights[op].codes)
            np.testing.assert_array_equal(weight.bias, plain[name].quantised.weights[op].bias)
