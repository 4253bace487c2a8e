from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from miaobi.core.config import (
    Former,
    Further,
    FurtherOptions,
    Option,
    arguments,
    build,
    checked,
    expand_mappings,
    flat,
    further,
    make,
    nested,
    options,
    parse,
    plain,
    present_key,
    read_yaml,
    resolve,
    usage,
)
from miaobi.core.config import values as config_values
from miaobi.core.errors import BadInput, NotFound


@dataclass(frozen=True)
class Inner:
    learning_rate: float = 1e-3
    """Peak rate."""
    schedule: Literal["cosine", "linear"] = "cosine"
    betas: tuple[float, float] = (0.9, 0.95)
    names: tuple[str, ...] = ()
    limit: int | None = None
    fused: bool = False


def target(
    folder: Path,
    other: str | None = None,
    *,
    train: Inner,
    free: Annotated[Inner, flat],
    name: str = "x",
) -> None:
    """Do.

    Args:
        folder: where
        name: what to call it
    """


OPTIONS = options(target)


def test_signature_becomes_options() -> None:
    keys = [option.key for option in OPTIONS]
    assert keys[:3] == ["folder", "other", "train.learning_rate"]
    assert "schedule" in keys
    assert "name" in keys
    by = {option.key: option for option in OPTIONS}
    assert by["train.learning_rate"].help == "Peak rate."
    assert by["name"].help == "what to call it"
    assert [option.key for option in OPTIONS if option.positional] == [
        "folder",
        "other",
    ]
    text = usage("miaobi do", "Do it.", OPTIONS)
    assert "--train.learning-rate FLOAT\n        Peak rate. (default 0.001)" in text
    assert "--train.schedule cosine|linear" in text


def test_layers_and_types() -> None:
    argv = parse(
        [
            "here",
            "--train.learning_rate",
            "1e-4",
            "--train.names=a",
            "--train.names",
            "b",
            "--fused",
            "--train.betas",
            "[0.5, 0.6]",
            "--limit",
            "7",
        ],
        OPTIONS,
    )
    assert argv["train.learning_rate"] == 1e-4
    tree = {"train": {"schedule": "linear", "learning_rate": "3e-4"}}
    values = resolve(OPTIONS, tree, argv)
    arguments = build(target, values)
    assert arguments["folder"] == Path("here")
    assert arguments["train"] == Inner(1e-4, "linear", (0.5, 0.6), ("a", "b"))
    assert arguments["free"] == Inner(limit=7, fused=True)
    assert nested(values)["train"]["betas"] == [0.5, 0.6]
    assert plain(arguments["train"])["names"] == ["a", "b"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["here", "--train.learningrate", "1"], "train.learning_rate"),
        (["here", "--train.schedule", "cosin"], "cosine | linear"),
        (["here", "--train.learning_rate", "fast"], "float"),
        (["here", "--limit", "1.5"], "int"),
        (["here", "there", "nowhere"], "'nowhere'"),
        (["here", "--name"], "needs a value"),
        (["here", "--train.betas", "[1]"], "betas"),
        ([], "folder"),
    ],
)
def test_mistakes(argv: list[str], message: str) -> None:
    with pytest.raises(BadInput, match=message.replace("|", r"\|")):
        resolve(OPTIONS, overrides=parse(argv, OPTIONS))


def test_a_file_with_an_unknown_key_is_named() -> None:
    with pytest.raises(
        BadInput, match=r"my\.yaml: there is no setting 'train.lerning_rate'"
    ) as caught:
        resolve(OPTIONS, {"train": {"lerning_rate": 1}}, {}, "my.yaml")
    assert "train.learning_rate" in caught.value.remedy


def test_yaml_mistakes(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    with pytest.raises(NotFound, match="a.yaml"):
        read_yaml(path)
    path.write_text("a: 1\nb: [1\nc: 2\n")
    with pytest.raises(BadInput, match=r"a\.yaml:\d"):
        read_yaml(path)
    path.write_text("")
    with pytest.raises(BadInput, match="no settings"):
        read_yaml(path)


@given(
    st.floats(allow_nan=False, allow_infinity=False, min_value=1e-12, max_value=1e6),
    st.text(min_size=1).filter(lambda text: not text.startswith("-")),
    st.sampled_from(["cosine", "linear"]),
)
def test_argv_and_yaml_agree(rate: float, name: str, schedule: str) -> None:
    argv = [
        "here",
        "--train.learning-rate",
        repr(rate),
        "--train.schedule",
        schedule,
        f"--name={name}",
    ]
    tree = {
        "folder": "here",
        "train": {"learning_rate": rate, "schedule": schedule},
        "name": name,
    }
    assert resolve(OPTIONS, {}, parse(argv, OPTIONS)) == resolve(OPTIONS, tree)


def test_names_that_python_reserves() -> None:
    def add(*, with_: str, without: str = "") -> None:
        """Add.

        Args:
            with_: What to add.
            without: What to leave out.
        """

    opts = options(add)
    assert [(option.key, option.help) for option in opts] == [
        ("with", "What to add."),
        ("without", "What to leave out."),
    ]
    assert build(add, resolve(opts, {}, parse(["--with", "7"], opts))) == {
        "with_": "7",
        "without": "",
    }


@dataclass(frozen=True)
class Share:
    path: str = ""
    """Where it lies."""
    share: Annotated[float, Field(ge=0)] = 0.0


@dataclass(frozen=True)
class Mixture:
    name: str = "x"
    mix: dict[str, Share] = field(default_factory=dict)


MIXTURE = options(Mixture, "data.")


def test_a_mapping_of_dataclasses_spreads_over_the_names_that_the_file_gives() -> None:
    tree = {"data": {"mix": {"poems": {"path": "p.jsonl", "share": "0.1"}, "通用": {}}}}
    values = resolve(MIXTURE, tree, {"data.mix.poems.share": 0.5})
    assert [option.key for option in expand_mappings(MIXTURE, tree)] == [
        "data.name",
        "data.mix.poems.path",
        "data.mix.poems.share",
        "data.mix.通用.path",
        "data.mix.通用.share",
    ]
    assert build(Mixture, values, "data.") == {
        "name": "x",
        "mix": {"poems": Share("p.jsonl", 0.5), "通用": Share()},
    }
    assert resolve(MIXTURE, nested(values)) == values
    assert build(Mixture, resolve(MIXTURE), "data.") == {"name": "x", "mix": {}}
    text = usage("do", "", MIXTURE)
    assert "--data.mix.NAME.path TEXT\n        Where it lies.\n" in text
    assert "--data.mix.NAME.share FLOAT\n        (default 0.0; at least 0)" in text


@pytest.mark.parametrize(
    ("mix", "argv", "problem", "remedy"),
    [
        (
            {"poems": {"shar": 1}},
            [],
            "my.yaml: there is no setting 'data.mix.poems.shar'",
            "data.mix.poems.share",
        ),
        (
            {"poems": {"share": -1}},
            [],
            "my.yaml: data.mix.poems.share is -1.",
            "float",
        ),
        ({"poems": {"share": "much"}}, [], "data.mix.poems.share is 'much'", "float"),
        (
            {"poems": {}},
            ["--data.mix.poems.share", "-0.1"],
            "--data.mix.poems.share is -0.1.",
            "float",
        ),
        (
            {"poems": {}},
            ["--data.mix.poem.share", "1"],
            "there is no setting 'data.mix.poem.share'",
            "data.mix.poems.share",
        ),
        (
            {},
            ["--data.mix.poems.share", "1"],
            "there is no setting 'data.mix.poems.share'",
            "data.mix: {NAME: {...}} with path, share",
        ),
        (
            {"poems": "p.jsonl"},
            [],
            "my.yaml: data.mix.poems is 'p.jsonl'",
            "with path, share",
        ),
        ({"my poems": {}}, [], "data.mix.my poems is {}", "letters, digits and _"),
        (["p.jsonl"], [], "my.yaml: data.mix is ['p.jsonl']", "with path, share"),
        (None, [], "data.mix is None", "with path, share"),
    ],
)
def test_mistakes_inside_a_mapping_are_named(
    mix: Any, argv: list[str], problem: str, remedy: str
) -> None:
    with pytest.raises(BadInput, match=re.escape(problem)) as caught:
        tree = {"data": {"mix": mix}}
        opts = [*MIXTURE, *expand_mappings(MIXTURE, tree, "my.yaml")]
        resolve(MIXTURE, tree, parse(argv, opts), "my.yaml")
    assert remedy in caught.value.remedy


def double(value: int) -> int:
    return 2 * value


@dataclass(frozen=True)
class Renamed:
    parts: Annotated[int, Former("halves", double, until="999.0")] = 1
    other: str = ""


RENAMED = options(Renamed, "train.")


@dataclass(frozen=True)
class Gone:
    parts: Annotated[int, Former("halves", double, until="0.1")] = 1


def once() -> None:
    config_values._note.cache_clear()


@pytest.mark.parametrize(
    ("settings", "overrides", "origin", "written"),
    [
        ({"train": {"halves": 3}}, {}, "my.yaml", "my.yaml: train.halves"),
        ({}, {"train.halves": 3}, "", "train.halves"),
    ],
)
def test_an_earlier_name_is_noted_once(
    settings: dict[str, Any],
    overrides: dict[str, Any],
    origin: str,
    written: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    once()
    for _ in range(2):
        resolve(RENAMED, settings, overrides, origin)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert shown.err.startswith(written)
    assert "999.0" in shown.err
    assert "Write train.parts." in shown.err


def test_an_earlier_option_is_noted_as_it_was_written(
    capsys: pytest.CaptureFixture[str],
) -> None:
    once()
    parse(["--train.halves", "3"], RENAMED)
    shown = capsys.readouterr().err
    assert shown.startswith("--train.halves is an earlier name")
    assert "Write --train.parts." in shown


def test_files_of_our_own_are_read_without_a_word(
    capsys: pytest.CaptureFixture[str],
) -> None:
    once()
    found = resolve(RENAMED, {"train": {"halves": 3}}, origin="config.yaml", own=True)
    assert found["train.parts"] == 6
    assert capsys.readouterr().err == ""


def test_an_earlier_name_is_refused_from_its_version_on() -> None:
    gone = options(Gone, "train.")
    with pytest.raises(BadInput, match=r"my.yaml: train.halves has another name"):
        resolve(gone, {"train": {"halves": 3}}, origin="my.yaml")
    assert resolve(gone, {"train": {"halves": 3}}, own=True)["train.parts"] == 6


@pytest.mark.parametrize(
    ("settings", "argv", "parts"),
    [
        ({}, [], 1),
        ({"train": {"halves": 3}}, [], 6),
        ({}, ["--train.halves", "3"], 6),
        ({}, ["--train.halves=3"], 6),
        ({"train": {"parts": 5}}, ["--train.halves", "3"], 6),
        ({"train": {"halves": 5}}, ["--train.parts", "3"], 3),
        ({"train": {"parts": 5, "halves": 2}}, [], 4),
    ],
)
def test_an_earlier_name_is_read_and_not_written(
    settings: dict[str, Any], argv: list[str], parts: int
) -> None:
    overrides = parse([*argv, "--train.other", "x"], RENAMED)
    values = resolve(RENAMED, settings, overrides)
    assert values == {"train.parts": parts, "train.other": "x"}
    by_key = {option.key: option for option in RENAMED}
    assert present_key("train.halves", by_key) == "train.parts"
    assert present_key("train.other", by_key) == "train.other"


def test_mistakes_under_an_earlier_name_are_named() -> None:
    with pytest.raises(BadInput, match="--train.halves is 'many'"):
        parse(["--train.halves", "many"], RENAMED)
    with pytest.raises(BadInput, match="train.parts is 'many'"):
        resolve(RENAMED, {"train": {"halves": "many"}})
    with pytest.raises(BadInput, match="halves"):
        parse(["--train.halves"], RENAMED)
    assert "halves" not in usage("miaobi", "", RENAMED)


@dataclass(frozen=True)
class Bounded:
    steps: Annotated[int, Field(ge=1)] = 10
    rate: Annotated[float, Field(gt=0, le=1)] = 0.5
    share: Annotated[float, Field(ge=0, lt=1)] | None = None
    levels: list[Annotated[int, Field(ge=2)]] = field(default_factory=list)
    channels: Literal[0, 1, 3] = 0
    """Colours."""


BOUNDED = options(Bounded, "train.")


@pytest.mark.parametrize(
    ("key", "inside", "outside", "bound"),
    [
        ("train.steps", 1, 0, "int, at least 1"),
        ("train.rate", 1, 0, "float, above 0, at most 1"),
        ("train.rate", 1e-9, 1.01, "float, above 0, at most 1"),
        ("train.rate", 0.5, float("nan"), "float, above 0, at most 1"),
        ("train.share", 0, 1, "float, at least 0, below 1"),
        ("train.share", None, float("inf"), "float, at least 0, below 1"),
        ("train.levels", [2, 3], [2, 1], "list of int, at least 2"),
        ("train.channels", 3, 2, "0 | 1 | 3"),
    ],
)
def test_bounds_hold_wherever_a_value_comes_from(
    key: str, inside: Any, outside: Any, bound: str
) -> None:
    name = key.removeprefix("train.")
    assert resolve(BOUNDED, {"train": {name: inside}})[key] == inside
    assert resolve(BOUNDED, overrides={key: inside})[key] == inside
    assert make(Bounded, {key: inside}, "train.")
    named = re.escape(f"{key} is {outside!r}")
    for call in (
        lambda: resolve(BOUNDED, overrides={key: outside}),
        lambda: make(Bounded, {key: outside}, "train."),
    ):
        with pytest.raises(BadInput, match=f"^{named}") as caught:
            call()
        assert f"It takes {bound}." in caught.value.remedy
    with pytest.raises(BadInput, match=rf"^my\.yaml: {named}"):
        resolve(BOUNDED, {"train": {name: outside}}, origin="my.yaml")
    if isinstance(outside, list):
        argv = [item for value in outside for item in (f"--{key}", str(value))]
    else:
        argv = [f"--{key}", str(outside)]
    with pytest.raises(BadInput, match=f"^--{re.escape(key)} is "):
        parse(argv, BOUNDED)


def test_a_choice_that_is_a_number_is_read_from_the_command_line() -> None:
    assert parse(["--train.channels", "3"], BOUNDED) == {"train.channels": 3}


@pytest.mark.parametrize(
    ("value", "strict"), [("3", False), (True, False), (3.0, False), ("3", True)]
)
def test_json_is_taken_as_it_is(value: Any, strict: bool) -> None:
    option = BOUNDED[0]
    if strict:
        with pytest.raises(BadInput, match="train.steps is '3'"):
            option.convert(value, strict=True)
    else:
        assert option.convert(value) == int(value)


def test_a_remedy_has_the_default_and_the_near_choice() -> None:
    with pytest.raises(BadInput) as caught:
        resolve(options(Inner), {"schedule": "cosin"})
    assert "Did you mean cosine?" in caught.value.remedy
    assert "It takes cosine | linear." in caught.value.remedy
    assert "The default is cosine." in caught.value.remedy


def test_a_section_of_the_overrides_takes_the_place_of_the_files() -> None:
    tree = {"train": {"rate": 0.1, "steps": 5}}
    values = resolve(BOUNDED, tree, {"train": {"steps": 7}})
    assert (values["train.steps"], values["train.rate"]) == (7, 0.5)


def test_a_first_look_leaves_out_what_it_does_not_know() -> None:
    argv = ["--tune.rank", "4", "--train.steps", "7", "--flag", "--x=1", "too many"]
    assert parse(argv, BOUNDED, others=True) == {"train.steps": 7}
    with pytest.raises(BadInput, match="no setting 'tune.rank'"):
        parse(argv, BOUNDED)


def further_options(argv: Sequence[str]) -> FurtherOptions:
    kind = parse(argv, [Option("kind", str, "")], others=True).get("kind", "")
    return FurtherOptions("Those of a kind.", options(Bounded, f"{kind}."))


def command(
    *, kind: str = "", settings: Annotated[Mapping[str, Any], Further(further_options)]
) -> Mapping[str, Any]:
    """Do."""
    return settings


def test_a_command_gets_the_settings_that_depend_on_the_command_line() -> None:
    keywords = arguments(command, ["--kind", "a", "--a.steps", "3"])
    assert keywords == {"kind": "a", "settings": {"a.steps": 3}}
    assert arguments(command, []) == {"kind": "", "settings": {}}
    with pytest.raises(BadInput, match="no setting 'b.steps'"):
        arguments(command, ["--kind", "a", "--b.steps", "3"])
    assert "Those of a kind." in usage(
        "do", "", options(command), further(command, ["--kind", "a"])
    )


def test_a_checked_function_checks_its_arguments() -> None:
    @checked
    def count(n: Annotated[int, Field(ge=1)] = 1, *, path: Path = Path()) -> list[Any]:
        return [n, path]

    assert count() == [1, Path()]
    assert count(2, path="a") == [2, Path("a")]  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="^n is 0"):
        count(n=0)
