"""Options that are fields of configs say what the fields say, and nothing of it is written twice."""

import ast
import inspect
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args

import pytest
import typer
from pydantic import Field, field_validator
from typer.testing import CliRunner

import calib8
from calib8.cli.fields import Of, Only, option_of, with_fields
from calib8.cli.main import app
from calib8.cli.wrong_options import by_option
from calib8.config import Config, Option

SOURCE = Path(calib8.__file__).parent
CONFIGS = [
    value for name in calib8.__all__ if isinstance(value := getattr(calib8, name), type) and issubclass(value, Config)
]
#: Options that are called as a field is and are something else: the GPU that the process sees, the file that holds a
#: server's key, a timeline that is kept beside the output of a command without a report, a cache that is written, the
#: ranges that ``quantize`` goes by.
OTHERS = {"--device", "--api-key-file", "--monitor", "--cache", "--ranges"}
COMMANDS = {one.callback.__name__: one.callback for one in app.registered_commands if one.callback is not None}


def options() -> Iterator[tuple[str, Any]]:
    """Every option of every command, with the command's name."""
    for verb, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        yield from ((verb, one) for one in command.params if one.param_type_name == "option")


def fields_of(command: Any) -> Iterator[tuple[str, type[Config], str, object]]:
    """Parameter, config, field and default of each option of a command that is a field."""
    for name, parameter in inspect.signature(inspect.unwrap(command), eval_str=True).parameters.items():
        kind, *marks = get_args(parameter.annotation) or (parameter.annotation,)
        of = next((mark for mark in marks if isinstance(mark, Of)), None)
        only = next((mark for mark in marks if isinstance(mark, Only)), None)
        if of is not None:
            own = parameter.default is inspect.Parameter.empty
            yield name, of.config, of.field, of.config.model_fields[of.field].default if own else parameter.default
            continue
        if isinstance(kind, type) and issubclass(kind, Config):
            base = only.base if only is not None else None
            for field in only.fields if only is not None else kind.model_fields:
                default = kind.model_fields[field].default if base is None else getattr(base, field)
                yield field, kind, field, default


@pytest.mark.parametrize("verb", COMMANDS)
def test_an_option_that_is_a_field_says_what_the_field_says(verb: str) -> None:
    shown = {option.name: option for name, option in options() if name == verb.replace("_", "-")}
    made = {name: rest for name, *rest in fields_of(COMMANDS[verb])}
    for name, (config, field, default) in made.items():
        said = (config.model_fields[field].description or "").split("\n\n")[0]
        words = re.split(r"``\w+``", " ".join(said.split()))  # between fields, which are options in help
        assert re.fullmatch("--[a-z0-9-]+".join(map(re.escape, words)), shown[name].help)
        typed = ",".join(map(str, default)) if isinstance(default, tuple) else default
        assert str(shown[name].default) == str(typed if typed != "" else None)
    by_hand = {option.opts[0] for name, option in shown.items() if name not in made}
    assert by_hand & {option_of(config, field) for config in CONFIGS for field in config.model_fields} <= OTHERS


def test_most_fields_are_options() -> None:
    assert len({(config, field) for command in COMMANDS.values() for _, config, field, _ in fields_of(command)}) >= 65


def test_no_help_text_is_written_twice() -> None:
    """Neither in the command line nor in a config; texts of one option that several commands share are one."""
    texts = Counter(text for text in literals(str) if len(text.split()) > 3)
    helps = {help_text for _, option in options() if (help_text := option.help)}
    twice = {text for text in helps if texts[text] > 1}
    assert not twice


def test_every_option_has_help() -> None:
    assert not [f"{verb} {option.opts[0]}" for verb, option in options() if not option.help]
    for config in CONFIGS:
        for field, info in config.model_fields.items():
            assert info.description, f"{config.__name__}.{field}"
            assert info.description.split("\n\n")[0].endswith("."), f"{config.__name__}.{field}"


def test_no_default_is_written_twice() -> None:
    """A fraction stands once in the source; a whole number may mean something else there, but not by the same name."""
    defaults = {field: number for config in CONFIGS for field, number in numbers_of(config)}
    written = Counter(literals(float))
    assert {number: written[number] for number in defaults.values() if isinstance(number, float)} == {
        99.99: 1, 14.0: 1, 0.002: 1
    }  # fmt: skip
    whole = {field for field, number in defaults.items() if isinstance(number, int)}
    assert len(whole) >= 8
    assert sorted(given_defaults(whole)) == sorted(whole)
    assert not set(defaults.values()) & {*literals(float, SOURCE / "cli"), *literals(int, SOURCE / "cli")}


def numbers_of(config: type[Config]) -> Iterator[tuple[str, int | float]]:
    """Fields whose default is a number that nobody would write by chance, those of configs within it included."""
    for field, info in config.model_fields.items():
        within = dict(info.default) if isinstance(info.default, Config) else {field: info.default}
        for name, number in within.items():
            if (isinstance(number, float) and (number > 10 or number % 1)) or (type(number) is int and number >= 100):
                yield name, number


def test_the_check_sees_a_number_that_stands_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.py").write_text("class Calibrate:\n    percentile: float = Field(default=99.99)\n")
    (tmp_path / "b.py").write_text("def observer(percentile: float = 99.99) -> None: ...\n")
    monkeypatch.setattr("test_fields.SOURCE", tmp_path)
    assert Counter(literals(float))[99.99] == 2
    assert list(given_defaults({"percentile"})) == ["percentile", "percentile"]


def trees(folder: Path | None = None) -> Iterator[ast.AST]:
    for path in sorted((folder or SOURCE).rglob("*.py")):
        yield ast.parse(path.read_text(encoding="utf-8"))


def literals(kind: type, folder: Path | None = None) -> Iterator[Any]:
    """Every literal of that type in the source."""
    for tree in trees(folder):
        yield from (
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and type(node.value) is kind
        )


def given_defaults(names: set[str]) -> Iterator[str]:
    """Fields and parameters of these names that are given a number, or a Field with one, where they are declared."""
    for tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                if node.target.id in names and node.value is not None and has_number(node.value):
                    yield node.target.id
            elif isinstance(node, ast.arguments):
                positional = [*node.posonlyargs, *node.args]
                given = [*zip(positional[len(positional) - len(node.defaults) :], node.defaults, strict=True)]
                given += zip(node.kwonlyargs, node.kw_defaults, strict=True)
                yield from (
                    argument.arg
                    for argument, default in given
                    if argument.arg in names and default is not None and has_number(default)
                )


def has_number(value: ast.expr) -> bool:
    """Whether this default is a number, or looks one up."""
    given = [value]
    if isinstance(value, ast.Call):
        given = [keyword.value for keyword in value.keywords if keyword.arg == "default"]
    return any(
        isinstance(one, (ast.BinOp, ast.Name)) or type(getattr(one, "value", None)) in (int, float) for one in given
    )


class Tea(Config):
    """For these tests."""

    minutes: Annotated[int, Option("--steep")] = Field(default=4, ge=1, le=9)
    """Minutes in the pot.

    More makes it bitter.
    """
    leaves_from: tuple[str, ...] = ()
    """Gardens, with ``minutes`` in mind."""
    sweet_or_not: bool = False
    """Sugar."""
    warm: bool = True
    """Warm the pot."""
    sizes: Annotated[tuple[int, ...], Option(metavar="1,2", text=True)] = (1, 2)
    """Cups."""

    @field_validator("sizes", mode="before")
    @classmethod
    def _sizes(cls, value: Any) -> Any:
        return tuple(value.split(",")) if isinstance(value, str) else value


def brewed(command: Any, *arguments: str) -> Any:
    app = typer.Typer(rich_markup_mode=None)
    app.command()(with_fields(command))
    return CliRunner().invoke(app, [*arguments], env={"COLUMNS": "100", "TERM": "dumb"})


def test_a_config_is_made_of_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calib8.Tea", Tea, raising=False)
    got = []

    def brew(pot: str, *, tea: Tea, loud: bool = False) -> None:
        got.append((pot, tea, loud))

    assert brewed(brew, "blue").exit_code == 0
    given = ("--steep", "5", "--leaves-from", "a", "--leaves-from", "b", "--sweet-or-not", "--no-warm", "--loud", "red")
    assert brewed(brew, *given).exit_code == 0
    five = Tea(minutes=5, leaves_from=("a", "b"), sweet_or_not=True, warm=False)
    assert got == [("blue", Tea(), False), ("red", five, True)]
    refused = by_option(brewed(brew, "x", "--steep", "0").exception)
    assert str(refused) == "got --steep 0, expected 1 or more."


def test_the_help_is_the_first_paragraph_in_the_words_of_the_command_line() -> None:
    def brew(*, tea: Tea) -> None: ...

    told = " ".join(brewed(brew, "--help").output.split())
    assert "--steep <int> Minutes in the pot. [default: 4]" in told
    assert "bitter" not in told
    assert "Gardens, with --steep in mind." in told
    assert "--sweet-or-not Sugar." in told
    assert "--warm / --no-warm Warm the pot. [default: warm]" in told
    assert "--sizes 1,2 Cups. [default: 1,2]" in told


def test_a_command_can_take_some_fields_or_one() -> None:
    got = []

    def brew(
        *,
        tea: Annotated[Tea, Only("warm", "minutes", base=Tea(minutes=7))],
        sweet: Annotated[bool, Of(Tea, "sweet_or_not")],
        cups: Annotated[int | None, Of(Tea, "minutes")] = None,
    ) -> None:
        got.append((tea, sweet, cups))

    told = " ".join(brewed(brew, "--help").output.split())
    assert told.index("--warm") < told.index("--steep")
    assert "default: 7" in told
    assert "--leaves-from" not in told
    assert brewed(brew).exit_code == 0
    assert got == [(Tea(minutes=7), False, None)]


def test_a_field_that_others_fill_in_has_no_default_of_its_own() -> None:
    got = []

    def brew(*, how: Annotated[calib8.Quantize, Only("precision", "embedding")]) -> None:
        got.append(how)

    for arguments in ((), ("--precision", "fp8"), ("--float-embedding",)):
        assert brewed(brew, *arguments).exit_code == 0
    assert got == [calib8.Quantize(), calib8.Quantize(precision="fp8"), calib8.Quantize(embedding=False)]
    assert [how.embedding for how in got] == [True, False, False]
    refused = by_option(brewed(brew, "--precision", "fp8", "--int8-embedding").exception)
    assert str(refused) == "got --int8-embedding True, expected False."
    told = " ".join(brewed(brew, "--help").output.split())
    assert "--precision <int8|fp8> What to quantise to;" in told
    assert told.count("[default: ") == 1  # that of --precision
