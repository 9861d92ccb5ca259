"""What is fuzzed: one ``Target`` for each parser of data that may come from strangers.

To add one, write a function that takes bytes and a folder, give it seeds that the parser takes, and put both into
``TARGETS``: ``test_fuzz.py`` and ``run.py`` do the rest.
"""

import csv
import io
import json
from pathlib import Path
from typing import Any

import connection
import numpy as np
import onnx_ir as ir
import server
from campaign import Target
from mutations import of_json, of_lines, of_npy, of_npz, of_onnx
from tokenizers import Tokenizer, models, pre_tokenizers
from tokens import put_tokenizer, word_tokenizer

from calib8.caches.cache import Cache, cache_of, version_of
from calib8.caches.record import read_record
from calib8.calibration.ranges import Ranges
from calib8.data.batching import Dataset
from calib8.data.inputs import InputSpec
from calib8.data.sources import NpyFolder, NpzFile
from calib8.engine.host_loops import driven_by_host
from calib8.engine.layers_json import layers_from_json
from calib8.engine.layers_log import layers_from_log
from calib8.engine.plan_check import check_plan
from calib8.engine.profiles import parse_profile, profile_sets, resolve_profiles
from calib8.engine.quantized import conditioning_chains, quantized_ops, require_exact
from calib8.engine.sidecar import lacking_here, read_sidecar, runs_on
from calib8.engine.targets import parse_targets
from calib8.gpu.hardware import Gpu
from calib8.graph.builder import GraphBuilder
from calib8.graph.host_driven import host_driven
from calib8.graph.inputs import declared_inputs
from calib8.graph.io import load, referring, serialized, source_sha256, stored_bytes
from calib8.graph.weighted import weighted_ops
from calib8.passes.insert_qdq import insert_qdq
from calib8.passes.prepare import prepare
from calib8.provenance import CALIBRATION, PLAN
from calib8.quantization.export_cache import from_model
from calib8.quantization.migrate import CACHE
from calib8.quantization.quant_plan import QuantPlan
from calib8.report.inspect import inspect
from calib8.testing import tiny_convnet, tiny_encoder, tiny_mlp
from calib8.text import corpus
from calib8.text.sentence import pooling_of
from calib8.text.tokenizer import TextTokenizer, read_sentences
from calib8.verification.pairs import read_pairs

ORIGIN = {
    "model_sha256": "a" * 64, "data_sha256": "b" * 64, "settings": {"observer": "minmax"}, "tools": {"calib8": "0"},
}  # fmt: skip
RANGE = {"amax": 2.0, "minimum": -2.0, "maximum": 1.0, "typical": 0.5}
RANGES = {
    "format": "calib8.ranges/1", "origin": ORIGIN, "samples": 2, "positions": 8, "tensors": {"x": RANGE, "y:0": RANGE},
}  # fmt: skip
OP = {"node": "n", "kind": "MatMul", "input": "x", "treatment": "int8", "reason": "r", "amax": 2.0, "sqnr_db": 40.0}
QUANT_PLAN = {"format": "calib8.plan/1", "ops": [OP, OP | {"node": "m", "treatment": "float", "amax": None}]}
RECORD = {
    "format": "calib8.cache/1", "header": "TRT-101600-MinMaxCalibration", "tensors": 1, "entries_sha256": "c",
    "origin": ORIGIN,
}  # fmt: skip
PLAN_CHECK = {
    "target": "sm86", "expected": 2, "covered": 1, "planned_kernels": 1, "missing": ["n"], "reasons": {"n": "why"},
}  # fmt: skip
SIDECAR = {
    "format": 1, "engine_sha256": "d" * 64, "engine_bytes": 4, "family": "rtx", "tensorrt_version": "1.7.1.116",
    "target": "sm75+sm86", "model_sha256": "e" * 64, "model_metadata": {"calib8.made_by": "{}"},
    "profiles": [{"name": "ids", "min": [1, 1], "opt": [8, 64], "max": [64, 384]}],
    "tensors": [{"name": "ids", "mode": "input", "dtype": "int64", "shape": [-1, -1], "rows": 32}],
    "plan": PLAN_CHECK, "build_seconds": 1.5, "built_at": "2026-01-01T00:00:00+00:00", "calib8_version": "0.1.0",
    "hardware_compatibility": "ampere+",
}  # fmt: skip
SENSITIVITY = {
    "format": "calib8.sensitivity/1", "samples": 4, "all_float": 1.0, "all_int8": 0.99,
    "ops": [{"node": "n", "kind": "MatMul", "recipe": None, "alone": 0.99, "spared": 0.999}],
}  # fmt: skip
SPECS = (InputSpec("ids", np.dtype(np.int64), ("batch", "sequence"), 32),
         InputSpec("mask", np.dtype(np.float32), ("batch", "sequence")))  # fmt: skip
CACHE_TEXT = b"TRT-101600-MinMaxCalibration\ninput_ids: 3c010204\n/a/b:0: 3f800000\nzero: 0\nlost: 7f800000\n"
LAYERS = """Layers:
Name: q_fused [profile 0], LayerType: gemm, Inputs: [ { Name: x, Dimensions: [-1,8], Format/Datatype: Int8 }], \
Constants: [ { Name: w, Dimensions: [8,8], Format/Datatype: Int8 }], Outputs: [ { Name: y, Dimensions: [-1,8], \
Format/Datatype: Half }], TacticName: i8i8_i32, StreamId: 0, Metadata: [ONNX Layer: first][ONNX Layer: second]
Name: other, LayerType: runtime_fusion, Inputs: [], Outputs: [], Metadata: [ONNX Layer: relu]
"""
#: The same from TensorRT 10's inspector.
INSPECTED = """{"Layers": [{"Name": "mm_myl0_1", "LayerType": "gemm", "Inputs": [{"Name": "a", "Dimensions": [-1, 64],
"Format/Datatype": "Int8"}], "Outputs": [], "Weights": {"Type": "Int8", "Count": 0}, "HasDynamicFilter": 1,
"TacticName": "sm90_xmma_gemm_i8f16_i8i32_f32_tn_n", "Metadata": "[ONNX Layer: mm]\\u001f[ONNX Layer: q]"}],
"Bindings": ["x"]}"""


def _json(*documents: Any) -> Any:
    return lambda: [json.dumps(document).encode() for document in documents]


def _bytes(*contents: bytes) -> Any:
    return lambda: list(contents)


def _put(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


# --- TensorRT's cache, and calib8's own JSON files


def _cache(data: bytes, folder: Path) -> None:
    cache = Cache.load(_put(folder, "calibration.cache", data))
    assert cache.text.encode() in (data, data.removeprefix(b"\xef\xbb\xbf"))
    assert Cache.parse(cache.text, "again") == cache
    assert cache.with_scales(cache.scales) == cache  # not a byte changes
    cache.with_header("10.0.1", "EntropyCalibration2").inverted()
    assert set(cache.amax()) <= set(cache.scales)


def _cache_record(data: bytes, folder: Path) -> None:
    _put(folder, "a.cache.json", data)
    assert read_record(folder / "a.cache") is not None


def _ranges(data: bytes, folder: Path) -> None:
    ranges = Ranges.load(_put(folder, "ranges.json", data))
    cache_of(ranges.amax())
    assert all(tensor.typical_sqnr_db is not None for tensor in ranges.tensors.values())
    ranges.save(folder / "again.json")


def _plan(data: bytes, folder: Path) -> None:
    QuantPlan.load(_put(folder, "plan.json", data)).save(folder / "again.json")


def _sidecar(data: bytes, folder: Path) -> None:
    sidecar = read_sidecar(_put(folder, "a.engine.json", data))
    profile_sets(sidecar.profiles)
    runs_on(sidecar)
    lacking_here(sidecar, (Gpu("A10", "sm86"),))
    sidecar.plan.describe_conditioning()
    sidecar.plan.describe()


def _any_json(data: bytes, folder: Path) -> None:
    inspect(_put(folder, "any.json", data))


def _metadata(data: bytes, folder: Path) -> None:
    """What calib8 wrote into a model, changed by somebody."""
    model = _quantised()
    key = PLAN if b'"ops"' in data else CALIBRATION if b"sha256" in data else CACHE
    model.metadata_props[key] = data.decode("utf-8", errors="replace")
    from_model(model)


def _quantised() -> ir.Model:
    model = prepare(tiny_mlp())
    ops = weighted_ops(model)
    insert_qdq(model, ops, {op.activation.name or "": 2.0 for op in ops})
    return model


# --- ONNX


def _external_model() -> bytes:
    """Its weights are in ``weights.data``, 256 bytes, beside it."""
    model = ir.to_proto(tiny_mlp())
    for number, tensor in enumerate(model.graph.initializer):
        size = len(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = tensor.EXTERNAL
        for key, value in (("location", "weights.data"), ("offset", str(16 * number)), ("length", str(size))):
            tensor.external_data.add(key=key, value=value)
    return bytes(model.SerializeToString())


def _large_weight() -> ir.Model:
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 32)
    return g.model(y=g.op("MatMul", x, g.constant("w0", np.ones((32, 33)))))


def _onnx_seeds() -> list[bytes]:
    built = (tiny_mlp(), tiny_convnet(), tiny_encoder(), _quantised(), _large_weight())
    return [*map(serialized, built), _external_model()]


#: What is in a file outside the model's folder, and is never to be found in a weight.
SECRET = b"secret!!" * 64


def _loaded(data: bytes, folder: Path) -> tuple[Path, ir.Model]:
    inside = folder / "model"
    if not inside.is_dir():
        inside.mkdir()
        (inside / "weights.data").write_bytes(bytes(range(256)))
        (folder / "secret.data").write_bytes(SECRET)
    path = _put(inside, "model.onnx", data)
    return path, load(path)


def _onnx(data: bytes, folder: Path) -> None:
    path, model = _loaded(data, folder)
    assert source_sha256(path)
    assert stored_bytes(path) >= len(data)
    referring(model)
    for graph in model.graphs():
        for value in graph.initializers.values():
            if SECRET not in data and value.const_value is not None:
                assert SECRET[:8] not in value.const_value.tobytes()


def _onnx_graph(data: bytes, folder: Path) -> None:
    _, model = _loaded(data, folder)
    require_exact(model)
    quantized_ops(model)
    conditioning_chains(model)
    model = prepare(model)
    weighted_ops(model)
    declared_inputs(model)


def _onnx_inspect(data: bytes, folder: Path) -> None:
    path, _ = _loaded(data, folder)
    inspect(path)


# --- arrays


def _saved(*arrays: Any) -> list[bytes]:
    streams = [io.BytesIO() for _ in arrays]
    for stream, array in zip(streams, arrays, strict=True):
        np.save(stream, array, allow_pickle=False)
    return [stream.getvalue() for stream in streams]


def _npy_seeds() -> list[bytes]:
    ids = np.arange(6).reshape(2, 3)
    return _saved(ids, ids.astype(">i4"), np.asfortranarray(ids), np.zeros((0, 3), np.int64), np.float32(1), ids == 1)


def _npz_seeds() -> list[bytes]:
    seeds = []
    for write in (np.savez, np.savez_compressed):
        stream = io.BytesIO()
        write(stream, ids=np.arange(6).reshape(2, 3), mask=np.ones((2, 3), np.float32))
        seeds.append(stream.getvalue())
    return seeds


def _npy(data: bytes, folder: Path) -> None:
    arrays = folder / "arrays"
    arrays.mkdir(exist_ok=True)
    _put(arrays, "ids.npy", data)
    sum(len(rows) for rows, _ in Dataset(NpyFolder(arrays), SPECS[:1]).batches())


def _npz(data: bytes, folder: Path) -> None:
    source = NpzFile(_put(folder, "a.npz", data))
    source.fingerprint()
    sum(len(rows) for rows, _ in Dataset(source, SPECS).batches())


def _array_inspect(data: bytes, folder: Path) -> None:
    inspect(_put(folder, "a.npz" if data[:2] == b"PK" else "a.npy", data))


# --- text


def _text(data: bytes, folder: Path) -> None:
    sentences = read_sentences(_put(folder, "a.txt", data))
    put_tokenizer(folder)
    tokenizer = TextTokenizer(folder, 16)
    assert tokenizer.padded(tokenizer.tokens(sentences))["input_ids"].shape[0] == len(sentences)


def _pairs(data: bytes, folder: Path) -> None:
    assert len(read_pairs(_put(folder, "pairs.csv", data))) >= 3


def _pairs_seeds() -> list[bytes]:
    stream = io.StringIO()
    csv.writer(stream).writerows([("a b", 'c, "d"', 1.5), ("two\nlines", "b", 0), ("é", "", "5e-1")])
    return [stream.getvalue().encode()]


def _corpus(data: bytes, path: Path) -> None:
    path.write_bytes(data)
    parts = corpus.parts([path], 2, "text")
    assert sum(len(corpus.read(part, "text")) for part in parts) == sum(part.rows for part in parts)


def _json_lines(data: bytes, folder: Path) -> None:
    _corpus(data, folder / "a.jsonl")


def _parquet(data: bytes, folder: Path) -> None:
    _corpus(data, folder / "a.parquet")


def _parquet_seeds() -> list[bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    seeds = []
    for texts, options in (
        (["a", "b", "c"], {}),
        (["a", "a", "b"], {"compression": "NONE", "row_group_size": 2}),
        (["a" * 300] * 5, {"compression": "ZSTD", "use_dictionary": False}),
    ):
        stream = io.BytesIO()
        pq.write_table(pa.table({"text": texts, "n": range(len(texts))}), stream, **options)
        seeds.append(stream.getvalue())
    return seeds


# --- a model's folder


def _tokenizer(data: bytes, folder: Path) -> None:
    _put(folder, "tokenizer.json", data)
    TextTokenizer(folder, 16).tokens(["a b c", "", "é x"])


def _tokenizer_seeds() -> list[bytes]:
    words = word_tokenizer()
    pieces = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "##b": 2}, unk_token="[UNK]"))
    pairs = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    pairs.pre_tokenizer = pre_tokenizers.ByteLevel()
    unigram = Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0), ("ab", -2.0)], 0))
    return [tokenizer.to_str().encode() for tokenizer in (words, pieces, pairs, unigram)]


def _settings(data: bytes, folder: Path) -> None:
    put_tokenizer(folder)
    for name in ("tokenizer_config.json", "sentence_bert_config.json", "config_sentence_transformers.json"):
        _put(folder, name, data)
    tokenizer = TextTokenizer(folder)
    tokenizer.padded(tokenizer.tokens(["a b", "c"]))


def _pooling(data: bytes, folder: Path) -> None:
    _put(folder, "modules.json", data)
    if not (folder / "1_Pooling").is_dir():
        (folder / "1_Pooling").mkdir()
        _put(folder / "1_Pooling", "config.json", b"{}")
    pooling_of(folder)


def _pooling_settings(data: bytes, folder: Path) -> None:
    (folder / "1_Pooling").mkdir(exist_ok=True)
    _put(folder / "1_Pooling", "config.json", data)
    pooling_of(folder)


MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]
SETTINGS = {
    "max_seq_length": 8,
    "prompts": {"query": "a "},
    "default_prompt_name": "query",
    "do_lower_case": True,
    "pad_token": {"content": "<pad>"},
    "model_max_length": 10**30,
}


# --- TensorRT's plan, and what is typed


def _layers(data: bytes, folder: Path) -> None:
    text = data.decode("utf-8", errors="replace")
    layers = layers_from_json(text) or layers_from_log([text])
    check_plan(quantized_ops(_PLANNED), layers, "sm86", chains=conditioning_chains(_PLANNED), profiles=2)
    driven_by_host(layers, host_driven(_PLANNED))


_PLANNED = _quantised()


def _words(data: bytes, folder: Path) -> None:
    """Options that have a syntax of their own; a byte tells which."""
    text = data[1:].decode("utf-8", errors="replace")
    match data[:1]:
        case b"p":
            resolve_profiles(SPECS, [parse_profile(text)], {})
        case b"t":
            parse_targets(text)
        case _:
            version_of(text)


TARGETS = (
    Target("calibration-cache", _bytes(CACHE_TEXT, CACHE_TEXT.replace(b"\n", b"\r\n")), _cache, of_lines),
    Target("cache-record", _json(RECORD), _cache_record, of_json),
    Target("ranges", _json(RANGES), _ranges, of_json, 50),
    Target("plan", _json(QUANT_PLAN), _plan, of_json, 50),
    Target("sidecar", _json(SIDECAR), _sidecar, of_json),
    Target("inspect-json", _json(RANGES, QUANT_PLAN, SENSITIVITY), _any_json, of_json),
    Target("metadata", lambda: [*_json(QUANT_PLAN, ORIGIN)(), CACHE_TEXT], _metadata, of_json, 20),
    Target("onnx", _onnx_seeds, _onnx, of_onnx, 40),
    Target("onnx-external", lambda: [_external_model()], _onnx, of_onnx, 40),
    Target("onnx-graph", _onnx_seeds, _onnx_graph, of_onnx, 40),
    Target("onnx-inspect", _onnx_seeds, _onnx_inspect, of_onnx, 10),
    Target("npy", _npy_seeds, _npy, of_npy),
    Target("npz", _npz_seeds, _npz, of_npz, 50),
    Target("inspect-arrays", lambda: _npy_seeds() + _npz_seeds(), _array_inspect, of_npy),
    Target("text", _bytes(b"a b\n\nc d e\n", "\ufeffé à\r\n日本\n".encode()), _text, of_lines),
    Target("pairs", _pairs_seeds, _pairs, of_lines),
    Target("json-lines", _bytes(b'{"text": "a"}\n\n{"text": "b", "n": [1]}\n{"text": "c"}\n'), _json_lines, of_lines),
    Target("parquet", _parquet_seeds, _parquet, share=40),
    Target("tokenizer", _tokenizer_seeds, _tokenizer, of_json),
    Target("tokenizer-settings", _json(SETTINGS, {"pad_token": "b"}), _settings, of_json, 50),
    Target("modules", _json(MODULES, MODULES[:2]), _pooling, of_json),
    Target("pooling-settings", _json({"pooling_mode_mean_tokens": True}, {"pooling_mode": "cls"}, {}),
           _pooling_settings, of_json),
    Target("plan-log", _bytes(LAYERS.encode()), _layers, of_lines, 50),
    Target("plan-json", _bytes(INSPECTED.encode()), _layers, of_json, 50),
    Target("options", _bytes(b"pids:1x1:8x64:64x384", b"tsm75+sm86,sm120", b"v10.16.0", b"v8601"), _words),
    Target("server-request", server.seeds, server.request, of_lines),
    Target("server-connection", connection.seeds, connection.connection, of_lines),
)  # fmt: skip
