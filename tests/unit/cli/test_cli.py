"""The command line as a person uses it: results on stdout, everything else on stderr, honest exit codes."""

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from shell import Shell

import calib8 as calib8_library
from calib8.cli.fields import option_of
from calib8.quantization.config import Int8
from calib8.quantization.quant_plan import QuantPlan
from calib8.testing import tiny_convnet, tiny_encoder, tiny_mlp, token_feeds

SENTENCES = ["a b c", "d", "e a", "b b b b", "c d e", "a", "e e", "d c b a", "b", "a c"]


@pytest.fixture
def model(tokenizer_folder: Path) -> Path:
    """A tiny encoder beside its tokenizer."""
    path = tokenizer_folder / "model.onnx"
    ir.save(tiny_encoder(), path)
    return path


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "sentences.txt"
    path.write_text("\n".join(SENTENCES), encoding="utf-8")
    return path


@pytest.fixture
def int8(calib8: Shell, model: Path, text: Path, tmp_path: Path) -> Path:
    """The tiny encoder, quantised by the three commands one after the other."""
    data, ranges, path = tmp_path / "data", tmp_path / "ranges.json", model.with_name("model.int8.onnx")
    assert calib8("prepare", text, "--tokenizer", model.parent, "-o", data)[0] == 0
    assert calib8("calibrate", model, "--data", data, "-o", ranges)[0] == 0
    code, out, _ = calib8("quantize", model, "--ranges", ranges, "-o", path, "--min-sqnr", 0)
    assert (code, out) == (0, f"{path}: 6 of 6 weighted ops in INT8\n")
    return path


def test_options_of_quantisation_reach_it_and_default_to_its_own(
    calib8: Shell, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def record(*arguments: object, **options: object) -> QuantPlan:
        asked.append((arguments[3], options["data"]))
        return QuantPlan(ops=())

    monkeypatch.setattr("calib8.quantize_file", record)
    arguments = ("quantize", model, "--ranges", "ranges.json", "-o", "x.onnx")
    assert (
        calib8(*arguments)[0] == calib8(*arguments, "--data", "d", "--treatment", "plain", "--float-embedding")[0] == 0
    )
    assert asked == [(Int8(), None), (Int8(treatment="plain", embedding=False), Path("d"))]


def test_a_glob_that_matches_nothing_is_told_before_the_second_pass(
    calib8: Shell, int8: Path, model: Path, tmp_path: Path
) -> None:
    given = ("--ranges", tmp_path / "ranges.json", "--data", tmp_path / "data", "-o", tmp_path / "x.onnx")
    code, _, err = calib8("quantize", model, *given, "--exclude", "nosuch*")
    assert code == 2
    assert err.startswith("error: 'nosuch*' matches no weighted op")  # and no line of any stage


def test_calibrating_again_is_instant_and_says_so(calib8: Shell, int8: Path, model: Path, tmp_path: Path) -> None:
    arguments = ("calibrate", model, "--data", tmp_path / "data", "-o", tmp_path / "ranges.json")
    code, _, err = calib8(*arguments)
    assert code == 0
    assert "ranges are up to date" in err
    assert "calibrate:" not in err  # no pass was made
    code, _, err = calib8(*arguments, "--observer", "mse")
    assert code == 0
    assert "calibrating again: the settings (observer) changed" in err
    np.save(tmp_path / "data" / "input_ids.npy", np.full((10, 6), 5))
    assert "calibrating again: the calibration data, the settings" in calib8(*arguments)[2]
    ir.save(tiny_encoder(positions=17), model)
    assert "calibrating again: the model changed" in calib8(*arguments)[2]


def test_text_is_calibration_data_where_there_is_a_tokenizer(
    calib8: Shell, int8: Path, model: Path, text: Path, tmp_path: Path
) -> None:
    ranges = tmp_path / "ranges.json"
    code, _, err = calib8("calibrate", model, "--data", text, "-o", ranges)
    assert code == 0
    assert "ranges are up to date" in err  # those that were made of the folder which `prepare` made of this text
    given = ("--ranges", ranges, "--text", text, "-o", tmp_path / "x.onnx", "--min-sqnr", 0)
    assert calib8("quantize", model, *given)[1].endswith("6 of 6 weighted ops in INT8\n")
    long = tmp_path / "long.txt"
    long.write_text("\n".join(SENTENCES * 3), encoding="utf-8")
    assert calib8("sensitivity", model, "--data", long)[0] == 0
    arguments = ("convert", model, "--data", long, "-o", tmp_path / "out", "--no-engine")
    code, _, err = calib8(*arguments)
    assert code == 0, err
    assert "INT8 model is up to date" in calib8(*arguments)[2]
    long.write_text("\n".join(SENTENCES * 4), encoding="utf-8")
    assert "calibrating again: the calibration data changed" in calib8(*arguments)[2]
    bare = tmp_path / "bare.onnx"
    bare.write_bytes(model.read_bytes())
    code, _, err = calib8("calibrate", bare, "--data", text)
    assert code == 2
    assert f"no tokenizer.json was found beside {bare}" in err
    assert f"calib8 prepare {text} --tokenizer FOLDER -o calib_data" in err


def test_the_cache_holds_one_line_per_tensor(calib8: Shell, int8: Path, model: Path, tmp_path: Path) -> None:
    cache = tmp_path / "calibration.cache"
    calib8("calibrate", model, "--data", tmp_path / "data", "-o", tmp_path / "ranges.json", "--cache", cache)
    lines = cache.read_text().splitlines()
    tensors = json.loads((tmp_path / "ranges.json").read_text())["tensors"]
    assert lines[0] == "TRT-101600-MinMaxCalibration"
    assert [line.rpartition(": ")[0] for line in lines[1:]] == list(tensors)
    arguments = ("calibrate", model, "--data", tmp_path / "data", "-o", tmp_path / "ranges.json", "--cache", cache)
    assert calib8(*arguments, "--cache-version", "8601")[0] == 0
    assert cache.read_text().splitlines() == ["TRT-8601-MinMaxCalibration", *lines[1:]]
    assert "expected digits, e.g. 101600" in calib8(*arguments, "--cache-version", "8.6")[2]


def test_embed_writes_json_lines_in_order(calib8: Shell, int8: Path, text: Path, tmp_path: Path) -> None:
    code, out, _ = calib8("embed", int8, text, "--runtime", "onnxruntime")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [row["text"] for row in rows] == SENTENCES
    vectors = np.array([row["embedding"] for row in rows])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    saved = tmp_path / "vectors.npy"
    assert calib8("embed", int8, text, "-o", saved, "--runtime", "onnxruntime")[0] == 0
    np.testing.assert_allclose(np.load(saved), vectors, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{text}", "--column", "body", "--ray-cpus", 2), "--column, --ray-cpus go with --ray, which was not given"),
        (("{text}", "--keep-text", "--part-rows", 1), "--part-rows, --keep-text go with --ray, which was not given"),
        (("rows.jsonl",), "rows.jsonl holds rows, and without --ray texts are read line by line"),
        (("rows.parquet",), "rows.parquet holds rows, and without --ray texts are read line by line"),
    ],
)
def test_embed_ignores_nothing_that_is_for_ray(
    calib8: Shell, int8: Path, text: Path, arguments: tuple[Any, ...], message: str
) -> None:
    code, out, told = calib8("embed", int8, *(str(one).format(text=text) for one in arguments))
    assert (code, out) == (2, "")
    assert message in " ".join(told.split())


def test_calibrate_ignores_nothing_that_is_for_ray(calib8: Shell, tmp_path: Path) -> None:
    code, out, told = calib8("calibrate", "m.onnx", "--data", "d", "--ray-cpus", 4, "-o", tmp_path / "ranges.json")
    assert (code, out) == (2, "")
    assert "--ray-cpus goes with --ray, which was not given" in " ".join(told.split())


def test_embed_reads_standard_input(calib8: Shell, int8: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (int8.parent / "given").write_bytes(b"a b\n\nc\n")
    with (int8.parent / "given").open() as given:
        monkeypatch.setattr("sys.stdin", given)
        code, out, _ = calib8("embed", int8, "-", "--runtime", "onnxruntime")
    assert code == 0
    assert [json.loads(line)["text"] for line in out.splitlines()] == ["a b", "", "c"]


def test_run_writes_every_output(calib8: Shell, int8: Path, tmp_path: Path) -> None:
    code, out, _ = calib8("run", int8, "--data", tmp_path / "data", "-o", tmp_path / "outputs")
    assert code == 0
    assert out == f"{tmp_path / 'outputs' / 'last_hidden_state.npy'}: [10, 6, 8]\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("build", "{int8}", "-o", "x.engine", "--tensorrt-log", "{int8}"),
        ("build", "{int8}", "-o", "x.engine", "--log", "{int8}"),
        ("bench", "{model}", "{int8}", "--data", "{text}", "--log", "{int8}"),
        ("bench", "{model}", "{int8}", "--data", "{text}", "-o", "{int8}"),
        ("bench", "{int8}", "--data", "{text}", "-o", "{text}"),
        ("embed", "{int8}", "{text}", "-o", "{text}"),
        ("embed", "{int8}", "{text}", "-o", "{int8}"),
        ("calibrate", "{model}", "--data", "{data}", "-o", "x", "--cache", "x"),
        ("quantize", "{model}", "--ranges", "{ranges}", "-o", "x.onnx", "--plan", "{model}"),
        ("quantize", "{model}", "--ranges", "{ranges}", "-o", "x.onnx", "--plan", "{ranges}"),
    ],
)
def test_no_output_of_any_kind_replaces_what_was_read(
    calib8: Shell, int8: Path, model: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
) -> None:  # fmt: skip
    (empty := tmp_path / "empty").mkdir()
    monkeypatch.chdir(empty)
    places = {"int8": int8, "model": model, "text": text, "data": tmp_path / "data", "ranges": tmp_path / "ranges.json"}
    before = {path: path.read_bytes() for path in places.values() if path.is_file()}
    code, _, err = calib8(*(argument.format(**places) for argument in arguments))
    assert code == 2
    assert "is an input of this command and would be overwritten" in err or "would be written twice" in err
    assert before == {path: path.read_bytes() for path in before}
    assert not any(empty.iterdir())


def test_outputs_do_not_go_among_the_inputs(calib8: Shell, int8: Path, tmp_path: Path) -> None:
    """Where the next calibration would take them for inputs."""
    code, _, err = calib8("run", int8, "--data", tmp_path / "data", "-o", tmp_path / "data")
    assert code == 2
    assert "data is an input of this command" in err
    assert not (tmp_path / "data" / "last_hidden_state.npy").exists()


def test_a_cache_for_an_impossible_tensorrt_is_refused_before_the_pass(
    calib8: Shell, int8: Path, model: Path, tmp_path: Path
) -> None:
    arguments = ("--data", tmp_path / "data", "-o", tmp_path / "r.json", "--cache", tmp_path / "c")
    code, _, err = calib8("calibrate", model, *arguments, "--cache-version", "10.x")
    assert (code, err.count("calibrate:")) == (2, 0)
    assert "got the TensorRT version '10.x'" in err
    assert not (tmp_path / "r.json").exists()


def test_the_overview_cuts_no_sentence_off(calib8: Shell) -> None:
    code, out, _ = calib8("--help")
    assert code == 0
    assert "..." not in out.partition("Commands:")[2]
    assert "in one pass over the data." in " ".join(out.split())


def test_verify_judges(calib8: Shell, int8: Path, model: Path, text: Path) -> None:
    code, out, _ = calib8("verify", model, int8, "--data", text, "--min-cosine", "0.9")
    assert code == 0
    assert "embedding (mean of last_hidden_state)" in out
    assert "cosine to FP32, mean" in out
    assert re.search(r"^kept: mean cosine 0\.9\d+, at least 0\.9 is asked for\nPASSED\n", out, re.MULTILINE)
    assert f"accuracy: 10 samples from {text}\n" in out
    assert re.search(
        r"model\.int8\.onnx ran in ONNX Runtime \S+ on CPU.*, FP16 rounded behind every op as in an engine\n", out
    )
    assert re.search(r"model\.onnx ran in ONNX Runtime \S+ on CPU\n", out)
    code, out, err = calib8("verify", model, int8, "--data", text)
    assert (code, err.splitlines()[-1]) == (0, "no limit given: nothing was judged")
    assert "dB" in out
    assert "PASSED" not in out
    code, _, err = calib8("verify", model, int8, "--data", text, "--min-sqnr-db", "99")
    assert code == 1
    assert "SQNR in dB" in err
    assert "nothing was judged" not in err
    code, out, err = calib8("verify", model, int8, "--data", text, "--min-cosine", "0.99999999999")
    assert code == 1
    assert "MISSED: mean cosine 0.99" in out  # what was measured is shown all the same
    assert "FAILED" in out
    assert re.search(
        r"error: accuracy limit missed on 10 samples: mean cosine 0\.99\d+, expected at least 0\.99999999999\.", err
    )


def test_verify_tells_a_program_what_computed(calib8: Shell, int8: Path, model: Path, text: Path) -> None:
    code, out, _ = calib8("verify", model, int8, "--data", text, "--runtime", "onnxruntime", "--json")
    accuracy = json.loads(out)["accuracy"]
    assert code == 0
    assert accuracy["runtime"].startswith("ONNX Runtime")
    assert accuracy["reference_runtime"].startswith("ONNX Runtime")
    assert accuracy["outputs"]["last_hidden_state"]["pooled"] == "mean"


def test_inspect_knows_everything_that_was_made(calib8: Shell, int8: Path, tmp_path: Path) -> None:
    code, out, _ = calib8("inspect", int8)
    assert code == 0
    assert "ONNX model" in out
    assert "4 Q, 10 DQ" in out  # q, k and v read one tensor: 4 activations; 6 weights
    assert "ranges" in calib8("inspect", tmp_path / "ranges.json")[1]


@pytest.mark.parametrize("verb", ["fetch", "prepare", "calibrate", "quantize", "build", "run", "embed", "verify"])
def test_every_verb_has_help_with_an_example(calib8: Shell, verb: str) -> None:
    code, out, _ = calib8(verb, "--help")
    assert code == 0
    assert f"calib8 {verb} " in out.partition("Example: ")[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("calibrate", "absent.onnx", "--data", "data"),
            "data not found: expected a folder of .npy files or an .npz file at data",
        ),
        (("calibrate", "absent.onnx", "--data", "{data}"), "ONNX model not found"),
        (("quantize", "{model}", "--ranges", "absent.json", "-o", "x.onnx"), "ranges file not found"),
        (
            ("calibrate", "{model}", "--data", "{data}", "--percentile", "12"),
            "got --percentile 12.0, expected more than 50",
        ),
        (("embed", "absent.onnx", "{text}"), "model or engine not found"),
        (("verify", "absent.onnx", "{model}", "--data", "{text}"), "ONNX model not found"),
        (("inspect", "absent.onnx"), "file not found"),
        (("build", "absent.onnx", "-o", "x.engine"), "ONNX model not found"),
        (("fetch", "bert", "--to", "x"), "all-mpnet-base-v2"),
        (("prepare", "absent.txt", "--tokenizer", "{folder}", "-o", "x"), "text file not found"),
        (("prepare", "{text}", "--tokenizer", "absent", "-o", "x"), "no tokenizer"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(
    calib8: Shell, model: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...],
    message: str,
) -> None:  # fmt: skip
    data = tmp_path / "calib"
    calib8("prepare", text, "--tokenizer", model.parent, "-o", data)
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    places = {"model": model, "data": data, "text": text, "folder": model.parent}
    code, out, err = calib8(*(argument.format(**places) for argument in arguments))
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert not any(empty.iterdir())  # nothing half-written


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("verify", "a", "b", "--data", "c", "--min-cosine", 1.01), "got --min-cosine 1.01, expected 1 or less."),
        (("bench", "a", "--data", "c", "--batches", "4,0"), "got --batches 0, expected more than 0."),
        (("bench", "a", "--data", "c", "--batches", ""), "got --batches (), expected at least 1."),
        (("quantize", "a", "--ranges", "b", "-o", "c", "--min-sqnr", -1), "got --min-sqnr -1.0, expected 0 or more."),
        (
            ("build", "a", "-o", "b", "--batch", 3),
            "--cache and --batch say how a calibrator works: choose a calibrator.",
        ),
        (
            ("export", "triton", "a", "-o", "b", "--name", "a b/c"),
            "got --name 'a b/c', expected letters, digits, - and _ only.",
        ),
    ],
)
def test_a_wrong_value_is_told_by_the_name_of_its_option(
    calib8: Shell, arguments: tuple[object, ...], message: str
) -> None:
    code, _, err = calib8(*arguments)
    assert (code, err) == (2, f"error: {message}\n")


def test_every_field_of_a_config_is_told_by_an_option_that_there_is() -> None:
    pages = (Path(__file__).parents[3] / "docs" / "cli.md").read_text(encoding="utf-8")
    only_in_python = {
        ("Int8", "max_damage"), ("Fp8", "max_damage"), ("Build", "check_plan"), ("Bench", "least"),
        ("Bench", "warm_up"), ("Convert", "calibrate"), ("Convert", "quantize"), ("Convert", "build"),
        ("Convert", "verify"),
    }  # fmt: skip
    configs = [
        "Calibrate",
        "Int8",
        "Fp8",
        "Migrate",
        "Build",
        "Verify",
        "Bench",
        "Convert",
        "Prepare",
        "Ray",
        "Serve",
        "Triton",
    ]
    fields = {(name, field) for name in configs for field in getattr(calib8_library, name).model_fields}
    lost = {
        (config, field)
        for config, field in fields - only_in_python
        if f"{option_of(getattr(calib8_library, config), field)} " not in pages
    }
    assert not lost


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("fetch all-", ["all-MiniLM-L6-v2", "all-mpnet-base-v2"]),
        ("build m.onnx --target sm8", ["sm80", "sm86", "sm89"]),
        ("convert m.onnx --target sm86,sm8", ["sm86,sm80", "sm86,sm89"]),
    ],
)
def test_the_shell_proposes(words: str, expected: list[str]) -> None:
    environment = {**os.environ, "_CALIB8_COMPLETE": "complete_bash", "COMP_WORDS": f"calib8 {words}"}
    environment["COMP_CWORD"] = str(len(words.split()))
    code = "import sys; sys.argv[0] = 'calib8'; from calib8.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == expected, done.stderr


def test_an_unknown_option_or_choice_is_a_usage_error(calib8: Shell) -> None:
    assert calib8("calibrate", "x", "--data", "y", "--observer", "magic")[0] == 2
    assert calib8("calibrate", "x", "--dta", "y")[0] == 2
    assert "Invalid value for 'server': 'x' is not one of 'triton'." in calib8("export", "x", "a.onnx", "-o", "b")[2]


def test_ctrl_c_ends_with_130(calib8: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("calib8.fetch", interrupt)
    code, out, err = calib8("fetch", "all-mpnet-base-v2", "--to", "x")
    assert (code, out) == (130, "")
    assert "interrupted" in err


def test_a_crash_is_called_a_bug_and_not_a_missed_limit(calib8: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object, **__: object) -> None:
        raise KeyError("ops")

    monkeypatch.setattr("calib8.fetch", crash)
    monkeypatch.delenv("CALIB8_DEBUG", raising=False)
    code, out, err = calib8("fetch", "all-mpnet-base-v2", "--to", "x")
    assert (code, out) == (70, "")
    assert err.startswith("this is a bug in calib8: KeyError: 'ops'\nSet CALIB8_DEBUG=1")
    assert "Traceback" not in err
    monkeypatch.setenv("CALIB8_DEBUG", "1")
    code, _, err = calib8("fetch", "all-mpnet-base-v2", "--to", "x")
    assert code == 70
    assert 'in crash\n    raise KeyError("ops")' in err


def test_where_an_unexpected_refusal_happened_can_be_asked(calib8: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "lost")

    monkeypatch.setattr("calib8.fetch", refuse)
    monkeypatch.delenv("CALIB8_DEBUG", raising=False)
    code, _, err = calib8("fetch", "all-mpnet-base-v2", "--to", "x")
    assert code == 2
    assert err == "error: could not use lost: No such file or directory. Check the path.\n"
    monkeypatch.setenv("CALIB8_DEBUG", "1")
    code, _, err = calib8("fetch", "all-mpnet-base-v2", "--to", "x")
    assert code == 2
    assert "in refuse" in err


@pytest.mark.parametrize(("error", "code"), [(MemoryError(), 2), (BrokenPipeError(errno.EPIPE, "gone"), 141)])
def test_other_ends(calib8: Shell, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("calib8.fetch", fail)
    got, out, err = calib8("fetch", "all-mpnet-base-v2", "--to", "x")
    assert (got, out) == (code, "")
    assert "Traceback" not in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a file that is always full")
@pytest.mark.parametrize("buffered", ["", "1"])
@pytest.mark.parametrize("command", ["--help", "--version", "inspect {model}", "inspect {model} --json"])
def test_a_full_disk_behind_stdout_is_told(tmp_path: Path, command: str, buffered: str) -> None:
    """Neither a bug (70) nor a missed limit (1), with which Python itself would end, or 120 if it finds out last."""
    ir.save(tiny_encoder(), model := tmp_path / "model.onnx")
    arguments = [sys.executable, "-m", "calib8", *command.format(model=model).split()]
    environment = os.environ | {"PYTHONUNBUFFERED": buffered}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            arguments, check=False, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, env=environment
        )
    assert (done.returncode, done.stderr) == (
        2,
        "error: could not write to standard output: no space left on device. Free disk space, or send the output "
        "elsewhere.\n",
    )


def test_sigterm_ends_with_143_and_leaves_nothing(tmp_path: Path) -> None:
    program = f"""
import time
import calib8
from calib8.cli.main import main
from calib8.quantization.config import Int8
from calib8.quantization.quant_plan import QuantPlan
from calib8.files import atomic

def fetch(*_, **__):
    with atomic(r"{tmp_path}/x"):
        print("writing", flush=True)
        time.sleep(60)

calib8.fetch = fetch
main()
"""
    arguments = [sys.executable, "-c", program, "fetch", "all-mpnet-base-v2", "--to", "x"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        assert [path.suffix for path in tmp_path.iterdir()] == [".part"]
        process.terminate()
        _, err = process.communicate(timeout=20)
    assert process.returncode == 143
    assert err == "interrupted; nothing half-written was left behind\n"
    assert not any(tmp_path.iterdir())


def test_a_model_without_weights_has_nothing_to_quantise(calib8: Shell, tmp_path: Path) -> None:
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["batch", 4]))
    node = ir.node("Relu", [x], name="relu")
    node.outputs[0].type, node.outputs[0].shape = x.type, x.shape
    graph = ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": 17}, name="relu")
    ir.save(ir.Model(graph, ir_version=9), tmp_path / "relu.onnx")
    np.savez(tmp_path / "data.npz", x=np.ones((3, 4), np.float32))
    code, _, err = calib8("calibrate", tmp_path / "relu.onnx", "--data", tmp_path / "data.npz")
    assert code == 2
    assert "nothing to quantise" in err


def test_convert_without_engines_holds_data_back(calib8: Shell, tmp_path: Path) -> None:
    ir.save(tiny_mlp(), tmp_path / "mlp.onnx")
    name = tiny_mlp().graph.inputs[0].name
    width = tiny_mlp().graph.inputs[0].shape[1]
    np.savez(tmp_path / "data.npz", **{name: np.random.default_rng(0).normal(size=(64, width)).astype(np.float32)})
    output = tmp_path / "out"
    code, out, err = calib8(
        "convert", tmp_path / "mlp.onnx", "--data", tmp_path / "data.npz", "-o", output, "--no-engine"
    )
    assert code == 0, err
    assert "PASSED" in out
    assert f"\nin {output}: model.int8.onnx, report.html\n" in out
    report = json.loads((output / "report.json").read_text())
    assert report["calibration"]["samples"] == 56
    assert report["accuracy"]["samples"] == 8
    assert {path.name for path in output.iterdir()} == {
        "ranges.json", "calibration.cache", "calibration.cache.json", "plan.json", "model.int8.onnx",
        "model.int8.onnx.json", "report.json", "report.html",
    }  # fmt: skip
    code, out, err = calib8(
        "convert", tmp_path / "mlp.onnx", "--data", tmp_path / "data.npz", "-o", output, "--no-engine",
        "--min-cosine", 1,
    )  # fmt: skip
    assert code == 1
    assert "cosine to FP32, mean" in out  # how good it is tells how far to go
    assert "FAILED: accuracy limit missed" in out
    assert err.rstrip().splitlines()[-1].startswith("error: accuracy limit missed")
    assert json.loads((output / "report.json").read_text())["passed"] is False


def test_a_limit_kept_on_the_calibration_data_is_called_no_proof(calib8: Shell, tmp_path: Path) -> None:
    ir.save(tiny_mlp(), tmp_path / "mlp.onnx")
    x = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
    for name, array in (("data", x), ("same", x), ("other", x[::-1])):
        np.savez(tmp_path / f"{name}.npz", x=array)
    arguments = ("convert", tmp_path / "mlp.onnx", "--data", tmp_path / "data.npz", "-o", tmp_path, "--no-engine")
    code, out, err = calib8(*arguments, "--held-out", tmp_path / "same.npz")
    assert code == 0, err
    assert "same.npz is the calibration data itself: what is measured on it says too much" in err
    assert "same.npz, the calibration data itself: no proof" in out
    assert json.loads((tmp_path / "report.json").read_text())["measured_on_calibration_data"] is True
    _, out, err = calib8(*arguments, "--held-out", tmp_path / "other.npz")
    assert "itself" not in out + err
    assert json.loads((tmp_path / "report.json").read_text())["measured_on_calibration_data"] is False


def test_held_out_samples_that_were_calibrated_on_are_counted(calib8: Shell, tmp_path: Path) -> None:
    ir.save(tiny_encoder(), tmp_path / "encoder.onnx")
    known, others = token_feeds(*range(3, 11)), token_feeds(4, 7, 9, seed=1)
    mixed = {name: np.concatenate([known[name][[2, 5]], np.pad(others[name], ((0, 0), (0, 1)))]) for name in known}
    np.savez(tmp_path / "data.npz", **known)
    np.savez(tmp_path / "mixed.npz", **mixed)
    np.savez(tmp_path / "others.npz", **others)
    arguments = ("convert", tmp_path / "encoder.onnx", "--data", tmp_path / "data.npz", "-o", tmp_path, "--no-engine")
    _, _, err = calib8(*arguments, "--held-out", tmp_path / "mixed.npz")
    assert "2 of 5 held-out samples are in the calibration data too: what is measured on them says too much" in err
    _, _, err = calib8(*arguments, "--held-out", tmp_path / "others.npz")
    assert "calibration data too" not in err


def test_prepare_refuses_a_file_as_its_folder_before_it_reads(calib8: Shell, tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"x")
    code, _, err = calib8("prepare", tmp_path / "absent.txt", "--tokenizer", tmp_path, "-o", tmp_path / "a.npz")
    assert code == 2
    assert "a.npz is a file, expected a folder. Choose another path." in " ".join(err.split())


def test_a_candidate_of_another_model_is_named(calib8: Shell, tmp_path: Path) -> None:
    ir.save(tiny_mlp(), tmp_path / "mlp.onnx")
    ir.save(tiny_convnet(), tmp_path / "cnn.onnx")
    np.savez(tmp_path / "x.npz", x=np.ones((3, 4), np.float32))
    code, _, err = calib8("verify", tmp_path / "mlp.onnx", tmp_path / "cnn.onnx", "--data", tmp_path / "x.npz")
    assert code == 2
    assert f"cnn.onnx takes image, but its reference {tmp_path / 'mlp.onnx'} takes x. Expected two forms of one" in err
    code, _, err = calib8("verify", tmp_path / "cnn.onnx", tmp_path / "mlp.onnx", "--data", tmp_path / "x.npz")
    assert code == 2
    assert f"x.npz is no data for the reference {tmp_path / 'cnn.onnx'}: no array for input image: got x" in err


@pytest.mark.parametrize(
    ("verb", "output", "message"),
    [
        ("calibrate", "", "is a folder, expected the name of a file to write"),
        ("run", "notes.txt", "notes.txt is a file, expected a folder"),
        ("convert", "notes.txt", "notes.txt is a file, expected a folder"),
        ("convert", "notes.txt/below", "notes.txt is a file, expected a folder"),
    ],
)
def test_outputs_of_the_wrong_kind_are_refused_before_the_model_is_read(
    calib8: Shell, tmp_path: Path, verb: str, output: str, message: str
) -> None:
    np.savez(tmp_path / "x.npz", x=np.ones((3, 4), np.float32))
    (tmp_path / "notes.txt").write_text("")
    code, _, err = calib8(verb, tmp_path / "absent.onnx", "--data", tmp_path / "x.npz", "-o", tmp_path / output)
    assert code == 2
    assert message in err
