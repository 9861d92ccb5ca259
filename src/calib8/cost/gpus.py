"""What GPUs can do at most, by NVIDIA's data sheets, and what share of it engines reach.

Peaks are dense, at boost clock, with the accumulation that TensorRT chooses: FP16 for FP16, its tactics of the H200 are
``f16f16_f16f16_f16``, and FP32 for FP8, ``e4m3f32_f32``. GeForce cards do half as much where FP32 is summed up, others
the same.

Shares and floors are fitted, and tests hold them to what they were fitted to (docs/performance.md):

- H200: to all-mpnet-base-v2 in TensorRT 10.6, engines with a profile for small batches and one for large ones,
  ``bench/results/2026-11-30-h200-engines.txt``, attention's share too.
- T4, A30, A100, L4, L40S: to FP16 latencies of BERT-base that NVIDIA publishes in demo/BERT of NVIDIA/TensorRT, T4 and
  A30 in older releases than the others. Those engines are of plugins written by hand.
- A10: the share of the A30, by the ratio of their rates in MLPerf Inference v1.0, bert-99.9 offline, closed division,
  eight GPUs each: 523 and 800 samples/s of a GPU. Its floor is the A30's.
- Others: as the GPU that ``like`` names.
"""

from dataclasses import dataclass

#: Where the numbers of a fit come from, for people.
OURS, NVIDIA, MLPERF = "MPNet in TensorRT 10.6", "NVIDIA's times of BERT-base", "MLPerf's rates of BERT-large"


@dataclass(frozen=True)
class Fit:
    """How near to its peaks a GPU comes.

    share: of them in large products. attention: of that in fused attention, which does without the instructions that
    make Hopper's products fast. floor_us: what a kernel takes beside that, in a CUDA graph. basis: what they are
    fitted to.
    """

    share: float
    floor_us: float
    basis: str
    attention: float = 0.4


_HOPPER = Fit(0.58, 3.75, OURS, attention=0.18)
_A30 = Fit(0.60, 8, NVIDIA)
_L40S = Fit(0.48, 4, NVIDIA)


@dataclass(frozen=True)
class Gpu:
    """A GPU. Tera operations a second of FP16, INT8 and FP8 (None where it has no units for it), a multiplication and
    an addition being two; GB/s of its memory; MB of its L2 cache; its streaming multiprocessors.

    like: the GPU whose fit it borrows, "" if it has its own.
    """

    name: str
    target: str
    fp16: float
    int8: float
    fp8: float | None
    memory: float
    cache: float
    multiprocessors: int
    fit: Fit
    like: str = ""

    @property
    def basis(self) -> str:
        """What its numbers rest on, for people."""
        return f"its data sheet; else like {self.like}" if self.like else self.fit.basis


#: Ordered by compute capability.
GPUS = (
    # T4 product brief and data sheet: 65 FP16, 130 INT8, 320 GB/s; Turing whitepaper: 4 MB of L2.
    Gpu("T4", "sm75", 65, 130, None, 320, 4, 40, Fit(0.36, 10, NVIDIA)),
    # A100 data sheet, 40 GB: 312, 624, 1,555 GB/s.
    Gpu("A100", "sm80", 312, 624, None, 1555, 40, 108, Fit(0.68, 7, NVIDIA)),
    # A30 data sheet: 165, 330, 933 GB/s.
    Gpu("A30", "sm80", 165, 330, None, 933, 24, 56, _A30),
    # A10 data sheet: 125, 250, 600 GB/s.
    Gpu("A10", "sm86", 125, 250, None, 600, 6, 72, Fit(0.52, 8, MLPERF)),
    # Jetson AGX Orin technical brief, 64 GB: 170 sparse TOPS of INT8 in the GPU, 204.8 GB/s; FP16 is half of INT8.
    Gpu("AGX Orin", "sm87", 42.5, 85, None, 204.8, 4, 16, _A30, like="A30"),
    # L4 data sheet: 242 FP16 and 485 INT8 and FP8, all sparse; 300 GB/s.
    Gpu("L4", "sm89", 121, 242, 242, 300, 48, 58, Fit(0.44, 3.5, NVIDIA)),
    # L40S data sheet: 362, 733, 733, 864 GB/s.
    Gpu("L40S", "sm89", 362, 733, 733, 864, 96, 142, _L40S),
    # Ada whitepaper: 330.3 with FP16 summed up (165.2 with FP32), 660.6, FP8 330.3 with FP32 summed up, 1,008 GB/s.
    Gpu("RTX 4090", "sm89", 330.3, 660.6, 330.3, 1008, 72, 128, _L40S, like="L40S"),
    # H100 data sheet, SXM: 1,979 FP16 and 3,958 INT8 and FP8, all sparse; 3,350 GB/s.
    Gpu("H100", "sm90", 989.5, 1979, 1979, 3350, 50, 132, _HOPPER, like="H200"),
    # H200 data sheet: as the H100, 4,800 GB/s; 60 MB of L2 as CUDA tells.
    Gpu("H200", "sm90", 989.5, 1979, 1979, 4800, 60, 132, _HOPPER),
    # RTX Blackwell whitepaper: 419 with FP16 summed up (209.5 with FP32), 838, FP8 419 with FP32 summed up, 1,792 GB/s.
    Gpu("RTX 5090", "sm120", 419, 838, 419, 1792, 96, 170, _L40S, like="L40S"),
)


def gpu_named(name: str) -> Gpu | None:
    """The GPU of that name, however it is spelt: ``rtx4090``, ``NVIDIA L4``; None if nothing is known of it."""
    return next((gpu for gpu in GPUS if _plain(gpu.name) == _plain(name)), None)


def _plain(name: str) -> str:
    plain = "".join(character for character in name.lower() if character.isalnum())
    return plain.removeprefix("nvidia")
