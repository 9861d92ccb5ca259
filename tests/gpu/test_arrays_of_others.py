"""GPU arrays of PyTorch and CuPy as inputs, outputs for them: without copies, in the right order, for long enough."""

import gc

import numpy as np
import pytest
from standin import expected

import calib8
from calib8.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
MIB = 1 << 20


@pytest.fixture(scope="module")
def torch():
    library = pytest.importorskip("torch", reason="PyTorch is not installed")
    if not library.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    return library


@pytest.fixture(scope="module")
def cupy():
    return pytest.importorskip("cupy", reason="CuPy is not installed")


def small_integers(shape, seed=0):
    return np.random.default_rng(seed).integers(-8, 8, shape).astype(np.float32)


class Interface:
    """Only the array interface of a CuPy array, and what it says of its stream."""

    def __init__(self, array, **changes):
        self._array = array
        self.__cuda_array_interface__ = {**array.__cuda_array_interface__, **changes}


def test_pytorch_arrays_go_in(workshop, torch):
    with calib8.open(workshop.path) as runtime:
        for shape in ((8, 64), (64, 384), (1, 1)):
            given = small_integers(shape)
            there = torch.from_numpy(given).cuda()
            for _ in range(4):
                assert np.array_equal(runtime(x=there)["y"], expected("chain", given))
        on_host = torch.from_numpy(small_integers((2, 3)))
        assert np.array_equal(runtime(x=on_host)["y"], expected("chain", on_host.numpy()))


def test_a_run_waits_for_what_pytorch_still_computes(workshop, torch):
    stream = torch.cuda.Stream()
    with calib8.open(workshop.path) as runtime:
        there = torch.zeros((64, 384), device="cuda")
        runtime(x=there)
        torch.cuda.synchronize()
        for turn in range(1, 6):
            with torch.cuda.stream(stream):
                torch.cuda._sleep(100_000_000)
                there.fill_(turn)
                assert not stream.query()
                assert set(runtime(x=there)["y"].ravel()) == {8 * turn + 7}


def test_a_run_waits_for_the_default_stream_too(workshop, torch):
    with calib8.open(workshop.path) as runtime:
        there = torch.zeros((64, 384), device="cuda")
        runtime(x=there)
        torch.cuda._sleep(100_000_000)
        there.fill_(3)
        assert set(runtime(x=there)["y"].ravel()) == {8 * 3 + 7}


def test_a_part_of_an_array_that_begins_anywhere_goes_in(workshop, torch):
    whole = torch.arange(33, dtype=torch.float32, device="cuda").reshape(11, 3)
    with calib8.open(workshop.path) as runtime:
        part = whole[1:]
        assert part.data_ptr() % 256 != 0
        assert np.array_equal(runtime(x=part)["y"], expected("chain", part.cpu().numpy()))


def test_pytorch_arrays_that_do_not_fit_are_refused(workshop, torch):
    there = torch.zeros((8, 64), device="cuda")
    with calib8.open(workshop.path) as runtime:
        for wrong, message in (
            (there.T, "x on the GPU is not C-contiguous"),
            (there.half(), "x on the GPU has dtype float16, expected float32"),
            (there.bfloat16(), "a DLPack dtype of code 4 with 16 bits"),
            (there[0], "x has rank 1"),
            (there.clone().requires_grad_(), "x on the GPU could not be taken: .*grad"),
            (torch.zeros((1, 5000), device="cuda"), "the engine was not built for x 1x5000"),
        ):
            with pytest.raises(DataError, match=message):
                runtime(x=wrong)
        assert np.array_equal(runtime(x=there)["y"], np.full((8, 64), 7, np.float32))


def test_pytorch_takes_outputs_where_they_lie(workshop, torch, leaks_nothing):
    given = small_integers((1024, 4096))

    def work() -> None:
        with calib8.open(workshop.path) as runtime:
            out = runtime.run_on_gpu({"x": given})["y"]
            taken = torch.from_dlpack(out)
            assert taken.data_ptr() == out.address
            assert taken.device.index == out.device_index
            assert np.array_equal(out.numpy(), expected("chain", given))
            del out
        gc.collect()
        assert np.array_equal(taken.cpu().numpy(), expected("chain", given))  # without the engine and our array

    leaks_nothing(work)


def test_the_array_interface_is_taken_by_pytorch(workshop, torch):
    given = small_integers((8, 64))
    with calib8.open(workshop.path) as runtime:
        out = runtime.run_on_gpu({"x": given})["y"]
        taken = torch.as_tensor(out, device="cuda")
        assert taken.data_ptr() == out.address
        assert np.array_equal(taken.cpu().numpy(), expected("chain", given))


def test_memory_is_free_once_nobody_holds_it(workshop, torch, device):
    given = np.zeros((8192, 4096), np.float32)  # 128 MiB
    workshop.write(layers=1)
    with calib8.open(workshop.path) as runtime:
        runtime(x=given)
        torch.cuda.synchronize()
        before = device.free_bytes()
        out = runtime.run_on_gpu({"x": given})["y"]
        taken = torch.from_dlpack(out)
        out.release()
        assert before - device.free_bytes() >= 128 * MIB
        del taken
        gc.collect()
        assert before - device.free_bytes() < 128 * MIB


def test_from_engine_to_engine_through_pytorch_nothing_leaves_the_gpu(workshop, torch):
    given = small_integers((64, 384))
    with calib8.open(workshop.path, contexts=2) as runtime:
        for _ in range(5):
            first = torch.from_dlpack(runtime.run_on_gpu({"x": torch.from_numpy(given).cuda()})["y"])
            second = runtime.run_on_gpu({"x": first - 7})["y"]
            assert np.array_equal(second.numpy(), expected("chain", expected("chain", given) - 7))


def test_many_runs_of_arrays_that_are_dropped_at_once(workshop, torch):
    """PyTorch gets the memory of an input back as soon as the run is over, not before."""
    with calib8.open(workshop.path, contexts=3) as runtime:
        runs = [
            (turn, runtime.submit({"x": torch.full((256, 4096), float(turn), device="cuda")})) for turn in range(30)
        ]
        for turn, run in runs:
            assert set(run.result()["y"].ravel()) == {8 * turn + 7}


def test_cupy_arrays_go_in_and_come_out(workshop, cupy, leaks_nothing):
    given = small_integers((64, 384))

    def work() -> None:
        with calib8.open(workshop.path) as runtime:
            there = cupy.asarray(given)
            assert np.array_equal(runtime(x=there)["y"], expected("chain", given))
            out = runtime.run_on_gpu({"x": there})["y"]
            for taken in (cupy.asarray(out), cupy.from_dlpack(out)):
                assert taken.data.ptr == out.address
                assert np.array_equal(cupy.asnumpy(taken), expected("chain", given))
            del taken, out, there
        cupy.get_default_memory_pool().free_all_blocks()

    leaks_nothing(work)


def test_a_run_waits_for_the_stream_that_an_array_interface_names(workshop, cupy):
    stream = cupy.cuda.Stream(non_blocking=True)
    with calib8.open(workshop.path) as runtime, stream:
        for turn in range(1, 6):
            there = cupy.zeros((1024, 4096), cupy.float32)
            for _ in range(200):
                there += 1
            there.fill(turn)
            given = Interface(there, stream=stream.ptr, version=3)
            assert set(runtime(x=given)["y"].ravel()) == {8 * turn + 7}


def test_an_array_interface_in_host_memory_is_refused(workshop, cupy):
    host = np.zeros((8, 64), np.float32)
    there = cupy.zeros((8, 64), cupy.float32)
    with calib8.open(workshop.path) as runtime, pytest.raises(DataError, match=r"x does not lie on .*where the engine"):
        runtime(x=Interface(there, data=(host.ctypes.data, False)))
