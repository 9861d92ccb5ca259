"""Arrays on the GPU as inputs and outputs of engines. NumPy stands in for libraries that read GPU arrays."""

import gc
from pathlib import Path

import numpy as np
import pytest
from fake_tensorrt import SCRATCH, World, ids

from calib8.engine.sidecar import TensorInfo
from calib8.errors import DataError, SetupError
from calib8.gpu import array as array_module
from calib8.gpu import dlpack
from calib8.gpu.array import GpuArray


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


class Foreign:
    """Another library's array on the GPU, written by its own stream when that gets to it."""

    def __init__(self, world: World, content: np.ndarray, *, stream: object = "own", **changes: object) -> None:
        self.cuda, self.content = world.cuda, content
        _, self.block = self.cuda.cudaMalloc(content.nbytes + 512)
        _, self.stream = self.cuda.cudaStreamCreateWithFlags(1)
        self.interface = {
            "shape": content.shape,
            "typestr": content.dtype.str,
            "data": (self.block, False),
            "strides": None,
            "version": 3,
            "stream": self.stream if stream == "own" else stream,
            **changes,
        }
        place = self.interface["data"][0]
        self.cuda.put(self.stream, lambda: self._write(place))

    def _write(self, place: int) -> None:
        self.cuda.bytes_at(place, self.content.nbytes)[...] = np.frombuffer(self.content.tobytes(), np.uint8)

    def free(self) -> None:
        self.cuda.cudaFree(self.block)
        self.cuda.cudaStreamDestroy(self.stream)


class WithInterface(Foreign):
    @property
    def __cuda_array_interface__(self) -> dict[str, object]:
        return self.interface


class WithDlpack(Foreign):
    """Lets the consumer's stream wait, as the protocol asks of it."""

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CUDA, 1

    def __dlpack__(self, *, stream: int) -> object:
        _, event = self.cuda.cudaEventCreateWithFlags(2)
        self.cuda.cudaEventRecord(event, self.stream)
        self.cuda.cudaStreamWaitEvent(stream, event, 0)
        self.cuda.cudaEventDestroy(event)
        address = self.interface["data"][0]
        return dlpack.capsule_of(address, self.content.shape, self.content.dtype, 1, self)


# Inputs


@pytest.mark.parametrize("kind", [WithInterface, WithDlpack])
def test_an_input_on_the_gpu_is_read_where_it_lies_once_its_owner_has_written_it(world, kind):
    with world.open() as runtime:
        given = kind(world, ids(2, 3) + 5)
        world.cuda.calls.clear()
        np.testing.assert_array_equal(runtime(ids=given)["out"], 2 * (ids(2, 3) + 5))
        assert [call[4] for call in world.cuda.named("cudaMemcpyAsync")] == ["out"]
        assert world.cuda.used == SCRATCH + 24 + 48 + 512
        given.free()
    gc.collect()
    assert dlpack._given == {}
    assert world.cuda.left_behind == {}


def test_an_owner_without_a_stream_is_taken_to_write_on_the_default_stream(world):
    with world.open() as runtime:
        given = WithInterface(world, ids(2, 3))
        del given.interface["stream"]
        given.cuda.cudaStreamSynchronize(given.stream)
        world.cuda.put(1, lambda: given._write(given.block))
        given.content = ids(2, 3) + 7
        np.testing.assert_array_equal(runtime(ids=given)["out"], 2 * (ids(2, 3) + 7))
        given.free()


def test_an_owner_that_says_that_nobody_has_to_wait_is_believed(world):
    with world.open() as runtime:
        given = WithInterface(world, ids(2, 3), stream=None)
        given.cuda.cudaStreamSynchronize(given.stream)
        world.cuda.calls.clear()
        runtime(ids=given)
        assert [call[2] for call in world.cuda.named("cudaEventRecord")] == [runtime._device.stream]
        given.free()


def test_a_misaligned_input_is_copied_on_the_gpu(world):
    with world.open() as runtime:
        given = WithInterface(world, ids(2, 3))
        given.cuda.cudaStreamSynchronize(given.stream)
        given.interface["data"] = (given.block + 8, False)
        given._write(given.block + 8)
        world.cuda.calls.clear()
        np.testing.assert_array_equal(runtime(ids=given)["out"], 2 * ids(2, 3))
        assert [call[4] for call in world.cuda.named("cudaMemcpyAsync")] == ["across", "out"]
        given.free()


def test_an_address_that_comes_again_gets_a_graph(world):
    with world.open() as runtime:
        static, other = (WithInterface(world, ids(2, 3) + number) for number in range(2))
        for _ in range(4):
            np.testing.assert_array_equal(runtime(ids=static)["out"], 2 * ids(2, 3))
        assert len(world.cuda.named("cudaGraphLaunch")) == 2
        np.testing.assert_array_equal(runtime(ids=other)["out"], 2 * (ids(2, 3) + 1))
        assert len(world.cuda.named("cudaGraphLaunch")) == 2
        static.free()
        other.free()


@pytest.mark.parametrize(
    ("content", "changes", "message"),
    [
        (ids(2, 3).astype(np.int32), {}, r"^ids on the GPU has dtype int32, expected int64\. Convert it there\.$"),
        (np.arange(3), {}, r"^ids has rank 1 \(shape \[3\]\), expected rank 2"),
        (ids(9, 16), {}, r"^the engine was not built for ids 9x16: expected ids 1x1 to 8x16"),
        (
            ids(2, 3),
            {"strides": (8, 16)},
            r"^ids on the GPU is not C-contiguous, and engines read nothing else\. Make it",
        ),
        (
            ids(2, 3),
            {"data": (4096, False)},
            r"^ids does not lie on NVIDIA A10, where the engine runs\. Move it there\.",
        ),
        (ids(0, 3), {}, r"the data is empty"),
    ],
)
def test_gpu_inputs_that_do_not_fit_are_refused(world, content, changes, message):
    with world.open() as runtime:
        given = WithInterface(world, content)
        given.cuda.cudaStreamSynchronize(given.stream)
        given.interface |= changes
        with pytest.raises(DataError, match=message):
            runtime(ids=given)
        assert world.trt.named("shape") == []
        given.free()


@pytest.mark.parametrize("strides", [(24, 8), None])
def test_strides_that_say_what_is_so_anyway_are_fine(world, strides):
    with world.open() as runtime:
        given = WithInterface(world, ids(2, 3), strides=strides)
        np.testing.assert_array_equal(runtime(ids=given)["out"], 2 * ids(2, 3))
        one_row = WithInterface(world, ids(1, 3), strides=(999, 8))
        np.testing.assert_array_equal(runtime(ids=one_row)["out"], 2 * ids(1, 3))
        given.free()
        one_row.free()


def test_the_values_of_gpu_inputs_are_not_looked_at(world):
    tensors = (
        TensorInfo(name="ids", mode="input", dtype="int64", shape=(-1, -1), rows=5),
        TensorInfo(name="out", mode="output", dtype="float32", shape=(-1, -1)),
    )
    world.write(tensors=tensors)
    with world.open() as runtime:
        with pytest.raises(DataError, match="ids holds the index 5, but the model's table has 5 rows"):
            runtime(ids=ids(2, 3))
        given = WithInterface(world, ids(2, 3))
        np.testing.assert_array_equal(runtime(ids=given)["out"], 2 * ids(2, 3))
        given.free()


def test_an_owner_that_does_not_hand_it_out_is_quoted(world):
    class Refusing(WithDlpack):
        def __dlpack__(self, *, stream: int) -> object:
            raise BufferError("Can't export tensors that require gradient")

    with world.open() as runtime:
        given = Refusing(world, ids(2, 3))
        with pytest.raises(
            DataError, match=r"^ids on the GPU could not be taken: Can't export tensors that require grad"
        ):
            runtime(ids=given)
        given.free()


def test_arrays_of_other_libraries_on_the_host_are_host_arrays(world):
    class OnHost:
        def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
            return ids(2, 3)

        def __dlpack_device__(self) -> tuple[int, int]:
            return 1, 0

    with world.open() as runtime:
        np.testing.assert_array_equal(runtime(ids=OnHost())["out"], 2 * ids(2, 3))


# Outputs


def test_outputs_stay_on_the_gpu_until_they_are_released(world):
    with world.open() as runtime:
        before = world.cuda.used
        out = runtime.run_on_gpu({"ids": ids(2, 3)})["out"]
        assert isinstance(out, GpuArray)
        assert (out.shape, out.dtype, out.nbytes) == ((2, 3), np.float32, 24)
        assert [call[4] for call in world.cuda.named("cudaMemcpyAsync")] == ["in"]
        np.testing.assert_array_equal(out.numpy(), 2 * ids(2, 3))
        assert world.cuda.used == before + 48 + 24
        out.release()
        out.release()
        assert world.cuda.used == before + 48
        with pytest.raises(
            SetupError, match=r"this GPU array was released\. Run the engine again, or release it later"
        ):
            out.numpy()
    assert world.cuda.left_behind == {}


def test_an_output_outlives_its_engine(world):
    with world.open() as runtime:
        run = runtime.submit_on_gpu({"ids": ids(2, 3)})
    out = run.result()["out"]
    np.testing.assert_array_equal(out.numpy(), 2 * ids(2, 3))
    del run, out
    gc.collect()
    assert world.cuda.left_behind == {}


def test_a_run_that_fails_keeps_no_outputs(world):
    with world.open() as runtime:
        before = world.cuda.used
        world.trt.refusing = "execute"
        with pytest.raises(SetupError, match="could not run on ids 2x3"):
            runtime.run_on_gpu({"ids": ids(2, 3)})
        gc.collect()
        assert world.cuda.used == before + 48


def test_the_output_of_one_engine_is_the_input_of_the_next(world):
    with world.open() as runtime:
        out = runtime.run_on_gpu({"ids": ids(2, 3)})["out"]
        with pytest.raises(DataError, match="ids on the GPU has dtype float32, expected int64"):
            runtime(ids=out)
        again = GpuArray(runtime._device, (2, 3), np.dtype(np.int64))
        world.cuda.bytes_at(again.address, 48).view(np.int64)[...] = np.arange(6)
        np.testing.assert_array_equal(runtime(ids=again)["out"], 2 * ids(2, 3))


def test_the_array_interface_describes_the_output(world):
    with world.open() as runtime:
        out = runtime.run_on_gpu({"ids": ids(2, 3)})["out"]
        assert out.__cuda_array_interface__ == {
            "shape": (2, 3),
            "typestr": "<f4",
            "data": (out.address, False),
            "strides": None,
            "stream": None,
            "version": 3,
        }
        assert out.__dlpack_device__() == (2, 1)
        for refused in ({"copy": True}, {"dl_device": (1, 0)}):
            with pytest.raises(BufferError, match="is handed out where it lies"):
                out.__dlpack__(**refused)


# DLPack with NumPy at the other end


def test_numpy_reads_our_capsules_and_gives_them_back(world, monkeypatch):
    """The fake's memory is the host's, so with the host's device type NumPy can take it: really, through DLPack."""
    with world.open() as runtime:
        out = runtime.run_on_gpu({"ids": ids(2, 3)})["out"]
        monkeypatch.setattr(dlpack, "CUDA", 1)
        out.device_index = 0
        taken = np.from_dlpack(out)
        assert taken.ctypes.data == out.address
        np.testing.assert_array_equal(taken, 2 * ids(2, 3))
        address = out.address
        del out
        gc.collect()
        assert address in world.cuda.memory  # NumPy still holds it
        del taken
        gc.collect()
        assert address not in world.cuda.memory
    assert dlpack._given == {}


def test_a_capsule_that_nobody_takes_gives_back_by_itself(world):
    with world.open() as runtime:
        out = runtime.run_on_gpu({"ids": ids(2, 3)})["out"]
        capsule = out.__dlpack__(stream=1, max_version=(1, 0))
        assert len(dlpack._given) == 1
        del capsule
        assert dlpack._given == {}


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "int32", "int8", "uint8", "bool"])
def test_we_read_the_capsules_of_numpy(dtype):
    array = np.ones((3, 4), dtype)[:, 1:3]
    address, shape, strides, read = dlpack.read(array.__dlpack__())
    assert (address, shape, strides, read) == (array.ctypes.data, (3, 2), (4, 1), np.dtype(dtype))


def test_a_dtype_without_a_numpy_name_is_told():
    with pytest.raises(DataError, match=r"a DLPack dtype of code 5 with 64 bits is none that engines take"):
        dlpack.read(np.ones(3, np.complex64).__dlpack__())


def test_what_lies_on_the_gpu(world):
    with world.open() as runtime:
        assert array_module.lies_on_gpu(runtime.run_on_gpu({"ids": ids(2, 3)})["out"])
    assert not array_module.lies_on_gpu(np.ones(3))
    assert not array_module.lies_on_gpu([1, 2])
