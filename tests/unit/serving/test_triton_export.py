"""Model repositories for Triton: every config is read with Triton's own protobuf definitions, every step executed."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from canaries import WITHOUT_VNNI, found_exact
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from shell import Shell
from tritonclient.grpc.model_config_pb2 import ModelConfig

import calib8
from calib8.engine.plan_check import PlanCheck
from calib8.engine.profiles import parse_profile
from calib8.engine.sidecar import Sidecar, TensorInfo, describe_engine, sidecar_path
from calib8.errors import ConfigError, InputError, ModelError, ProfileError, SetupError
from calib8.graph.weighted import weighted_ops
from calib8.passes.insert_qdq import insert_qdq
from calib8.passes.prepare import prepare
from calib8.serving.triton import repository as repository_module
from calib8.serving.triton.pbtxt import render
from calib8.testing import tiny_convnet, tiny_encoder
from calib8.text.tokenizer import TextTokenizer
from fake_triton import Step, TritonError, kernels, read_config, text

CONTENT = b"an engine"
GPU, CPU = 1, 2  # ModelInstanceGroup.Kind
IDS, MASK = (
    TensorInfo(name=name, mode="input", dtype="int64", shape=(-1, -1)) for name in ("input_ids", "attention_mask")
)
HIDDEN = TensorInfo(name="last_hidden_state", mode="output", dtype="float16", shape=(-1, -1, 8))
BOTH = ("input_ids:1x1:8x16:64x384", "attention_mask:1x1:8x16:64x384")


def sidecar(**changes: Any) -> Sidecar:
    values: dict[str, Any] = {
        "engine_sha256": hashlib.sha256(CONTENT).hexdigest(),
        "engine_bytes": len(CONTENT),
        "family": "tensorrt",
        "tensorrt_version": "10.13.3.9",
        "target": "sm86",
        "model_sha256": "0" * 64,
        "model_metadata": {},
        "profiles": tuple(map(parse_profile, BOTH)),
        "tensors": (IDS, MASK, HIDDEN),
        "plan": PlanCheck(target="sm86", expected=1, covered=1, planned_kernels=1),
        "build_seconds": 1.0,
        "built_at": "2026-01-01T00:00:00+00:00",
        "calib8_version": "0.1.0",
    }
    return Sidecar(**{**values, **changes})


@pytest.fixture
def engine(tokenizer_folder: Path) -> Callable[..., Path]:
    """Writes ``x.engine`` with a sidecar beside a tokenizer."""

    def write(*shapes: str, **changes: Any) -> Path:
        path = tokenizer_folder / "x.engine"
        path.write_bytes(CONTENT)
        if shapes:
            changes["profiles"] = tuple(map(parse_profile, shapes))
        sidecar_path(path).write_text(sidecar(**changes).model_dump_json())
        return path

    return write


@pytest.fixture
def model(tokenizer_folder: Path) -> Path:
    """A text encoder that takes 16 tokens, beside its tokenizer."""
    ir.save(tiny_encoder(), tokenizer_folder / "tiny.onnx")
    return tokenizer_folder / "tiny.onnx"


def pair(low: str, usual: str, high: str) -> tuple[str, str]:
    """One profile of both inputs."""
    return f"input_ids:{low}:{usual}:{high}", f"attention_mask:{low}:{usual}:{high}"


def through(repository: Path, name: str, *requests: Any) -> list[Any]:
    """Requests through the three steps as the ensemble's maps tie them; tokens of several requests apart."""
    session = ort.InferenceSession(str(repository / f"{name}_encoder" / "1" / "model.onnx"))
    steps = {f"{name}_{step}": Step(repository / f"{name}_{step}") for step in ("tokeniser", "pooling")}
    answers = []
    for request in requests:
        tensors = dict(request)
        for step in read_config(repository / name).ensemble_scheduling.step:
            feeds = {own: tensors[shared] for own, shared in step.input_map.items()}
            if step.model_name in steps:
                (got,) = steps[step.model_name](feeds)
            else:
                got = {
                    output.name: array
                    for output, array in zip(session.get_outputs(), session.run(None, feeds), strict=True)
                }
            tensors |= {shared: got[own] for own, shared in step.output_map.items()}
        answers.append(tensors["embedding"])
    return answers


def test_text_in_and_the_vectors_of_embed_out(model: Path, tmp_path: Path) -> None:
    made = calib8.export_triton(model, tmp_path / "repository", calib8.Triton(pad_to=4))
    sentences = ["a b", "", "c", "a b c d e " * 9]  # the last is cut to the 16 tokens that the model takes
    expected = calib8.embed(model, sentences, runtime="onnxruntime")
    together, *alone = through(made.folder, "tiny", text(*sentences), *map(text, sentences))
    assert together.dtype == np.float32
    np.testing.assert_allclose(together, expected, atol=1e-6)
    np.testing.assert_allclose(np.concatenate(alone), expected, atol=1e-6)
    assert (made.name, made.max_batch, made.width) == ("tiny", 64, 8)
    assert made.models == ("tiny", "tiny_tokeniser", "tiny_encoder", "tiny_pooling")


@pytest.mark.parametrize("prompt", ["a b ", 'b: "a\n\\é ', ""])
def test_a_prompt_by_default_is_put_before_texts_there_too(model: Path, tmp_path: Path, prompt: str) -> None:
    sentences = ["c", "", "d " * 20]
    expected = calib8.embed(model, [prompt + sentence for sentence in sentences], runtime="onnxruntime")
    settings = {"prompts": {"query": prompt}, "default_prompt_name": "query"}
    (model.parent / "config_sentence_transformers.json").write_text(json.dumps(settings))
    np.testing.assert_allclose(calib8.embed(model, sentences, runtime="onnxruntime"), expected, atol=1e-6)
    made = calib8.export_triton(model, tmp_path / "repository")
    np.testing.assert_allclose(through(made.folder, "tiny", text(*sentences))[0], expected, atol=1e-6)


def test_configs_of_an_onnx_model(model: Path, tmp_path: Path) -> None:
    folder = calib8.export_triton(model, tmp_path / "repository", calib8.Triton(instances=2, queue_delay_us=100)).folder
    whole, tokens, encoder, pooling = (
        read_config(folder / f"tiny{step}") for step in ("", "_tokeniser", "_encoder", "_pooling")
    )
    assert all(config.max_batch_size == 64 for config in (whole, tokens, encoder, pooling))
    assert all(config.version_policy.latest.num_versions == 1 for config in (whole, tokens, encoder, pooling))
    assert (whole.platform, len(whole.instance_group), whole.HasField("dynamic_batching")) == ("ensemble", 0, False)
    assert [(one.name, one.data_type, list(one.dims)) for one in whole.input] == [("text", 13, [1])]  # TYPE_STRING
    assert [(one.name, one.data_type, list(one.dims)) for one in whole.output] == [("embedding", 11, [8])]  # TYPE_FP32
    assert (encoder.platform, encoder.backend) == ("onnxruntime_onnx", "onnxruntime")
    assert [(one.name, one.data_type, list(one.dims)) for one in encoder.input] == [
        ("input_ids", 9, [-1]), ("attention_mask", 9, [-1])  # TYPE_INT64
    ]  # fmt: skip
    assert [(one.name, list(one.dims)) for one in encoder.output] == [("last_hidden_state", [-1, 8])]
    (group,) = encoder.instance_group
    assert (group.kind, group.count, list(group.profile)) == (CPU, 2, [])
    assert encoder.dynamic_batching.max_queue_delay_microseconds == 100
    assert list(encoder.dynamic_batching.preferred_batch_size) == []
    for step in (tokens, pooling):
        assert (step.backend, step.instance_group[0].kind) == ("python", CPU)
        assert step.HasField("dynamic_batching")
    produced = {"text"} | {value for step in whole.ensemble_scheduling.step for value in step.output_map.values()}
    assert {value for step in whole.ensemble_scheduling.step for value in step.input_map.values()} < produced


def test_gpu_for_an_onnx_model(model: Path, tmp_path: Path) -> None:
    made = calib8.export_triton(model, tmp_path / "repository", calib8.Triton(device="gpu", name="on_gpu"))
    assert read_config(made.folder / "on_gpu_encoder").instance_group[0].kind == GPU
    assert made.needs == "Triton with the ONNX Runtime back end and a GPU"


@pytest.fixture
def int8_model(tokenizer_folder: Path) -> Path:
    """The encoder with its six weighted MatMuls in INT8."""
    model = prepare(tiny_encoder())
    ops = weighted_ops(model)
    insert_qdq(model, ops, {op.activation.name: 4.0 for op in ops})
    return calib8.save(model, tokenizer_folder / "int8.onnx")


@pytest.mark.parametrize(
    ("here", "asked", "wanted"), [(True, None, 3), (False, None, 2), (False, True, 3), (True, False, 2)]
)
def test_every_int8_gemm_has_an_integer_kernel(
    int8_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: bool, asked: bool | None, wanted: int
) -> None:
    found_exact(monkeypatch, *([] if here else WITHOUT_VNNI))
    made = calib8.export_triton(int8_model, tmp_path / "repository", calib8.Triton(vnni=asked))
    exported = made.folder / "int8_encoder" / "1" / "model.onnx"
    assert kernels(exported, tmp_path)["MatMulIntegerToFloat"] == 6
    codes = {value.dtype for value in ir.load(exported).graph.initializers.values() if value.dtype in (2, 3)}
    assert codes == {2, wanted}  # uint8 zero points of activations, and uint8 or int8 weights
    assert made.needs.endswith("on a CPU with AVX512-VNNI or AVX-VNNI") == (wanted == 3)
    sentences = ["a b", "c"]
    expected = calib8.embed(int8_model, sentences, runtime="onnxruntime")
    np.testing.assert_allclose(through(made.folder, "int8", text(*sentences))[0], expected, atol=1e-6)


def test_vnni_where_it_says_nothing(model: Path, int8_model: Path, engine: Callable[..., Path], tmp_path: Path) -> None:
    told = r"got vnni=\w+, which is for INT8 ONNX models on the CPU, and .* is none. Leave it out"
    cases = ((model, {}), (engine(), {}), (int8_model, {"device": "gpu"}))
    for path, others in cases:
        with pytest.raises(ConfigError, match=told):
            calib8.export_triton(path, tmp_path / "repository", calib8.Triton(vnni=False, **others))


@pytest.fixture(scope="module")
def tokeniser(tmp_path_factory: pytest.TempPathFactory) -> tuple[Step, TextTokenizer]:
    """The exported step, padding to 4, and the tokenizer that it was made from; the model takes 16 tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    folder = tmp_path_factory.mktemp("tokens")
    own = Tokenizer(models.WordLevel({word: n for n, word in enumerate(["<pad>", "<s>", "</s>", "?", "a", "b"])}, "?"))
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    own.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    own.save(str(folder / "tokenizer.json"))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 14, "do_lower_case": true}')
    ir.save(tiny_encoder(), folder / "tiny.onnx")
    made = calib8.export_triton(folder / "tiny.onnx", folder / "repository", calib8.Triton(pad_to=4))
    return Step(made.folder / "tiny_tokeniser"), TextTokenizer(folder)


@given(st.lists(st.lists(st.text("aAbB ?é\n", max_size=30), min_size=1, max_size=3), min_size=1, max_size=3))
def test_the_same_tokens_as_calib8(tokeniser: tuple[Step, TextTokenizer], requests: list[list[str]]) -> None:
    step, own = tokeniser
    for sentences, got in zip(requests, step(*(text(*one) for one in requests)), strict=True):
        assert isinstance(got, dict)
        tokens = own.tokens(sentences)
        length = min(-(-max(map(len, tokens)) // 4) * 4, 16)  # 14 tokens at most, padded to 16 at most
        assert got["input_ids"].shape == got["attention_mask"].shape == (len(sentences), length)
        for ids, mask, expected in zip(got["input_ids"], got["attention_mask"], tokens, strict=True):
            assert ids.tolist() == expected + [own.pad_id] * (length - len(expected))
            assert mask.tolist() == [1] * len(expected) + [0] * (length - len(expected))


def test_text_that_is_no_utf8_fails_its_own_request_only(tokeniser: tuple[Step, TextTokenizer]) -> None:
    before, bad, after = tokeniser[0](text("a"), text("a", b"\xff"), text("b b"))
    assert isinstance(bad, TritonError)
    assert (str(bad), bad.code) == ("text is not UTF-8: send UTF-8 bytes", TritonError.INVALID_ARG)
    assert isinstance(before, dict)
    assert isinstance(after, dict)
    assert before["input_ids"].tolist() == [[1, 4, 2, 0]]
    assert after["input_ids"].tolist() == [[1, 5, 5, 2]]


@pytest.mark.parametrize(
    ("pooling", "modules", "expected"),
    [
        # (3, 0) and (3, 8), the third is padding: mean (3, 4), normalised (0.6, 0.8); the first is (3, 0)
        ("mean", ("Transformer", "Pooling", "Normalize"), [0.6, 0.8]),
        ("mean", ("Transformer", "Pooling"), [3, 4]),
        ("cls", ("Transformer", "Pooling"), [3, 0]),
    ],
)
def test_pooling_by_hand(
    model: Path, tmp_path: Path, pooling: str, modules: tuple[str, ...], expected: list[float]
) -> None:
    listed = [{"type": f"x.{kind}", "path": kind} for kind in modules]
    (model.parent / "modules.json").write_text(json.dumps(listed))
    (model.parent / "Pooling").mkdir()
    (model.parent / "Pooling" / "config.json").write_text(json.dumps({"pooling_mode": pooling}))
    made = calib8.export_triton(model, tmp_path / "repository")
    hidden, mask = np.float32([[[3, 0], [3, 8], [9, 9]]]), np.array([[1, 1, 0]])
    (got,) = Step(made.folder / "tiny_pooling")({"hidden": hidden, "attention_mask": mask})
    assert isinstance(got, dict)
    np.testing.assert_allclose(got["embedding"], [expected], rtol=1e-6)


def test_a_text_without_tokens_is_zeros(model: Path, tmp_path: Path) -> None:
    """A tokenizer without special tokens makes none of a blank text. The vectors of the others are what they were."""
    made = calib8.export_triton(model, tmp_path / "repository")
    hidden = np.full((2, 3, 8), np.nan, np.float32)  # what a model makes of nothing may be anything
    hidden[1, :2] = 1
    mask = np.array([[0, 0, 0], [1, 0, 0]], np.int64)
    (got,) = Step(made.folder / "tiny_pooling")({"hidden": hidden[:, :2], "attention_mask": mask[:, :2]})
    np.testing.assert_allclose(got["embedding"], [[0] * 8, [8**-0.5] * 8], rtol=1e-6)


def test_an_engine_with_its_profiles(engine: Callable[..., Path], tmp_path: Path) -> None:
    small, large = pair("1x1", "1x16", "1x64"), pair("1x1", "8x64", "32x256")
    made = calib8.export_triton(engine(*small, *large), tmp_path / "repository")
    config = read_config(made.folder / "x_encoder")
    assert (config.platform, config.backend, config.max_batch_size) == ("tensorrt_plan", "tensorrt", 32)
    (group,) = config.instance_group
    assert (group.kind, list(group.profile)) == (GPU, ["0", "1"])
    assert list(config.dynamic_batching.preferred_batch_size) == [1, 8, 32]
    assert config.output[0].data_type == read_config(made.folder / "x_pooling").input[0].data_type == 10  # TYPE_FP16
    assert read_config(made.folder / "x_tokeniser").parameters["longest"].string_value == "256"
    assert made.needs == "Triton with TensorRT 10.13.3.9 on sm86 (Ampere: A10, A40, RTX 30)"
    plan = made.folder / "x_encoder" / "1" / "model.plan"
    assert plan.read_bytes() == CONTENT
    assert describe_engine(plan).target == "sm86"


def test_one_profile_needs_no_preferred_batch(engine: Callable[..., Path], tmp_path: Path) -> None:
    made = calib8.export_triton(engine(), tmp_path / "repository")
    config = read_config(made.folder / "x_encoder")
    assert (config.max_batch_size, list(config.instance_group[0].profile)) == (64, ["0"])
    assert list(config.dynamic_batching.preferred_batch_size) == []
    chosen = calib8.Triton(max_batch=32, preferred_batches=(32, 8))
    calib8.export_triton(engine(), tmp_path / "repository", chosen)
    config = read_config(made.folder / "x_encoder")
    assert (config.max_batch_size, list(config.dynamic_batching.preferred_batch_size)) == (32, [8, 32])


def test_short_sentences_are_padded_to_what_the_engine_takes(engine: Callable[..., Path], tmp_path: Path) -> None:
    made = calib8.export_triton(engine(*pair("1x24", "8x24", "8x40")), tmp_path / "repository")
    step = Step(made.folder / "x_tokeniser")
    lengths = [step(text("a " * words))[0]["input_ids"].shape[1] for words in (1, 22, 31, 99)]  # type: ignore[index]
    assert lengths == [32, 32, 40, 40]  # multiples of 16, from 24 to 40


def test_a_version_compatible_engine_names_the_option(engine: Callable[..., Path], tmp_path: Path) -> None:
    made = calib8.export_triton(engine(version_compatible=True), tmp_path / "repository")
    assert made.needs.endswith("start it with --backend-config=tensorrt,version-compatible=true")


@pytest.mark.parametrize(
    ("shapes", "told"),
    [
        (pair("2x1", "8x16", "8x64"), "takes a batch of 1 with 1 tokens"),
        # a batch of 1 may have 64 tokens, more need two sentences
        ((*pair("1x1", "1x16", "1x64"), *pair("2x1", "8x16", "8x128")), "takes a batch of 1 with 65 tokens"),
        ((*pair("1x1", "1x16", "8x64"), *pair("1x80", "1x80", "8x128")), "takes a batch of 1 with 65 tokens"),
    ],
)
def test_batches_that_no_profile_takes(
    engine: Callable[..., Path], tmp_path: Path, shapes: tuple[str, ...], told: str
) -> None:
    with pytest.raises(ProfileError, match=told):
        calib8.export_triton(engine(*shapes), tmp_path / "repository")
    assert not (tmp_path / "repository").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"max_batch": 65}, "got max_batch=65, but the engine's largest samples come in batches of 64"),
        ({"preferred_batches": (128,)}, "got preferred_batches with 128, more than the largest batch, 64"),
        ({"max_batch": 0}, "max_batch=0 is for models without a batch"),
        ({"device": "cpu"}, "is an engine, which runs on a GPU only"),
    ],
)
def test_options_that_do_not_fit(
    engine: Callable[..., Path], tmp_path: Path, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        calib8.export_triton(engine(), tmp_path / "repository", calib8.Triton(**options))


def test_names_that_are_no_folder() -> None:
    with pytest.raises(ConfigError, match="name"):
        calib8.Triton(name="../up")


def test_an_engine_of_tensorrt_rtx_is_refused(engine: Callable[..., Path], tmp_path: Path, calib8: Shell) -> None:
    path = engine(family="rtx", tensorrt_version="1.7.1.116")
    code, _, err = calib8("export", "triton", path, "-o", tmp_path / "repository")
    assert code == 2
    assert "was built by TensorRT-RTX 1.7.1.116, and Triton's back end runs engines of TensorRT only" in err
    assert not (tmp_path / "repository").exists()


@pytest.mark.parametrize("content", [b"", b"no model"])
def test_damaged_artefacts(tmp_path: Path, calib8: Shell, content: bytes) -> None:
    for name in ("bad.onnx", "bad.engine"):
        (tmp_path / name).write_bytes(content)
        code, _, err = calib8("export", "triton", tmp_path / name, "-o", tmp_path / "repository")
        assert (code, "Traceback" in err) == (2, False)
    code, _, err = calib8("export", "triton", tmp_path / "absent.onnx", "-o", tmp_path / "repository")
    assert code == 2
    assert "not found" in err
    assert not (tmp_path / "repository").exists()


def test_a_model_without_text_is_exported_alone(tmp_path: Path, calib8: Shell) -> None:
    ir.save(tiny_convnet(), tmp_path / "eyes.v2.onnx")
    code, out, _ = calib8("export", "triton", tmp_path / "eyes.v2.onnx", "-o", tmp_path / "repository", "-q")
    assert code == 0
    assert "eyes_v2 (arrays in, arrays out), batches of up to 64\nneeds Triton with the ONNX Runtime back end\n" in out
    assert {path.name for path in (tmp_path / "repository").iterdir()} == {"calib8-triton.json", "eyes_v2"}
    config = read_config(tmp_path / "repository" / "eyes_v2")
    assert [list(one.dims) for one in (*config.input, *config.output)] == [[3, 8, 8], [2]]
    session = ort.InferenceSession(str(tmp_path / "repository" / "eyes_v2" / "1" / "model.onnx"))
    assert session.get_inputs()[0].name == "image"


def test_a_fixed_batch_and_single_numbers(engine: Callable[..., Path], tmp_path: Path) -> None:
    tensors = (
        TensorInfo(name="x", mode="input", dtype="float32", shape=(4, 3)),
        TensorInfo(name="factor", mode="input", dtype="float32", shape=()),
        TensorInfo(name="y", mode="output", dtype="bool", shape=(4,)),
    )
    made = calib8.export_triton(engine(tensors=tensors, profiles=()), tmp_path / "repository")
    config = read_config(made.folder / "x")
    assert (config.max_batch_size, config.HasField("dynamic_batching")) == (0, False)
    assert [list(one.dims) for one in (*config.input, *config.output)] == [[4, 3], [1], [4]]
    assert [one.HasField("reshape") for one in config.input] == [False, True]
    assert list(config.instance_group[0].profile) == []


def test_a_tokenizer_for_no_text_encoder(tokenizer_folder: Path, tmp_path: Path) -> None:
    ir.save(tiny_convnet(), tmp_path / "eyes.onnx")
    with pytest.raises(ModelError, match=r"is no text encoder: .* got the inputs image\. Leave out the tokenizer"):
        calib8.export_triton(tmp_path / "eyes.onnx", tmp_path / "repository", tokenizer=tokenizer_folder)


def test_an_encoder_without_tokenizer_says_so(tmp_path: Path, notes: Any) -> None:
    ir.save(tiny_encoder(), tmp_path / "tiny.onnx")
    made = calib8.export_triton(tmp_path / "tiny.onnx", tmp_path / "repository", progress=notes)
    assert made.models == ("tiny",)
    assert "no tokenizer.json beside" in notes.messages[0]


def test_a_foreign_folder_is_left_alone(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "repository"
    output.mkdir()
    (output / "mine").write_text("x")
    with pytest.raises(InputError, match="holds files that calib8 did not write, e.g. mine. Choose an empty"):
        calib8.export_triton(model, output)
    (output / "mine").unlink()
    calib8.export_triton(model, output)  # an empty folder is fine
    calib8.export_triton(model, output, calib8.Triton(name="other"))  # and so is what calib8 wrote
    assert {path.name for path in output.iterdir()} == {
        "calib8-triton.json", *(f"other{step}" for step in ("", "_tokeniser", "_encoder", "_pooling"))
    }  # fmt: skip
    (output / "other_encoder" / "2").mkdir()
    with pytest.raises(InputError, match="but other_encoder/2 was added since"):
        calib8.export_triton(model, output)
    assert (output / "other_encoder" / "1" / "model.onnx").is_file()


def edit(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n# tuned by hand\n")


def link(folder: Path, name: str) -> None:
    """Keep a file or folder elsewhere, and link to it from its place."""
    kept = (folder / name).rename(folder.parent / "kept")
    (folder / name).symlink_to(kept)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda folder: (folder / "tiny_encoder/1/mine.txt").write_text("x"), "tiny_encoder/1/mine.txt was added"),
        (lambda folder: edit(folder / "tiny_encoder/config.pbtxt"), "tiny_encoder/config.pbtxt was changed"),
        (lambda folder: edit(folder / "tiny_tokeniser/1/model.py"), "tiny_tokeniser/1/model.py was changed"),
        (lambda folder: link(folder, "tiny_encoder/1/model.onnx"), "tiny_encoder/1/model.onnx was changed"),
        (lambda folder: link(folder, "tiny_encoder"), "tiny_encoder was changed"),
    ],
)
def test_nothing_of_a_person_is_lost(model: Path, tmp_path: Path, change: Callable[[Path], object], told: str) -> None:
    output = tmp_path / "repository"
    calib8.export_triton(model, output)
    change(output)
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=f"{told} since. Choose an empty or a new folder"):
        calib8.export_triton(model, output)
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before


def test_what_is_missing_or_compiled_by_triton_is_no_loss(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "repository"
    calib8.export_triton(model, output)
    (output / "tiny_tokeniser/1/__pycache__").mkdir()  # of the Python back end
    (output / "tiny_tokeniser/1/__pycache__/model.cpython-310.pyc").write_bytes(b"x")
    (output / "tiny_pooling/1/model.py").unlink()
    calib8.export_triton(model, output)
    assert (output / "tiny_pooling/1/model.py").is_file()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"models": 7}, "models: Input should be a valid array"),
        ({"models": [["a"]]}, r"models\.0: Input should be a valid string"),
        ({"files": ["tiny"]}, "files: Input should be an object"),
        ({"files": None}, "files: Input should be an object"),
        ({"format": "calib8.triton/9"}, "format: Input should be 'calib8.triton/1'"),
        ({"note": "x"}, "note: Extra inputs are not permitted"),
        (None, "its content: Input should be an object"),
    ],
)
def test_a_damaged_note_of_an_export(model: Path, tmp_path: Path, change: dict[str, Any] | None, told: str) -> None:
    output = tmp_path / "repository"
    calib8.export_triton(model, output)
    note = output / "calib8-triton.json"
    note.write_text(json.dumps(change if change is None else json.loads(note.read_text()) | change))
    with pytest.raises(InputError, match=rf"no note of calib8's on an export \({told}\)\. Choose an empty"):
        calib8.export_triton(model, output)
    note.write_bytes(b"{")
    with pytest.raises(InputError, match="no note of calib8's on an export"):
        calib8.export_triton(model, output)
    assert (output / "tiny_encoder/1/model.onnx").is_file()


def test_a_file_in_the_place_of_a_model(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "repository"
    folder = calib8.export_triton(model, output).folder / "tiny"
    (folder / "1" / ".keep").unlink()
    (folder / "1").rmdir()
    (folder / "config.pbtxt").unlink()
    folder.rmdir()
    folder.write_text("x")
    with pytest.raises(InputError, match="but tiny was changed since"):
        calib8.export_triton(model, output)


def test_a_failure_leaves_what_was_there(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "repository"
    calib8.export_triton(model, output)
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(repository_module, "_write_steps", full)
    with pytest.raises(SetupError, match="No space left on device. Free disk space"):
        calib8.export_triton(model, output)
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["repository", "tokenizer"]


@given(st.text(min_size=1).filter(lambda name: name.isprintable()))
def test_any_name_survives_the_text_format(name: str) -> None:
    message = {"name": name, "input": [{"name": name, "dims": [-1, 3]}, {"name": "b", "dims": []}]}
    read = text_format.Parse(render(message), ModelConfig())
    assert read.name == read.input[0].name == name
    assert [list(one.dims) for one in read.input] == [[-1, 3], []]
