from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miaobi.core.config import build, flat, nested, options, plain, read_yaml, resolve, usage
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


def target(place: Path, other: str | None = None, *, train: Inner, free: Annotated[Inner, flat], name: str = "x") -> None:
    """Do.

    Args:
        place: where
        name: what to call it
    """


OPTIONS = options(target)


def test_signature_becomes_options() -> None:
    keys = [option.key for option in OPTIONS]
    assert keys[:3] == ["place", "other", "train.learning_rate"]
    assert "schedule" in keys
    assert "name" in keys
    by = {option.key: option for option in OPTIONS}
    assert by["train.learning_rate"].help == "Peak rate."
    assert by["name"].help == "what to call it"
    assert [option.key for option in OPTIONS if option.positional] == ["place", "other"]
    text = usage("miaobi do", "Do it.", OPTIONS)
    assert "--train.learning-rate  (float = 0.001)" in text
    assert "cosine | linear" in text


def test_layers_and_types() -> None:
    values = resolve(OPTIONS, ["here", "--train.learning_rate", "1e-4", "--train.names=a", "--train.names", "b", "--fused",
                               "--train.betas", "[0.5, 0.6]", "--limit", "7"], {"train": {"schedule": "linear", "learning_rate": "3e-4"}})
    made = build(target, values)
    assert made["place"] == Path("here")
    assert made["train"] == Inner(1e-4, "linear", (0.5, 0.6), ("a", "b"))
    assert made["free"] == Inner(limit=7, fused=True)
    assert nested(values)["train"]["betas"] == [0.5, 0.6]
    assert plain(made["train"])["names"] == ["a", "b"]


@pytest.mark.parametrize(("words", "message"), [
    (["--train.learningrate", "1"], "train.learning_rate"), (["--train.schedule", "cosin"], "cosine | linear"),
    (["--train.learning_rate", "fast"], "float"), (["--limit", "1.5"], "int"), (["a", "b", "c"], "'c'"), (["--name"], "needs a value"),
    (["--train.betas", "[1]"], "betas"), ([], "place")])
def test_mistakes(words: list[str], message: str) -> None:
    with pytest.raises(BadInput, match=message.replace("|", r"\|")):
        resolve(OPTIONS, words if words == [] or words[0] == "a" else ["here", *words])


def test_a_file_with_an_unknown_key_is_named() -> None:
    with pytest.raises(BadInput, match=r"my\.yaml: there is no setting 'train.lerning_rate'") as caught:
        resolve(OPTIONS, ["here"], {"train": {"lerning_rate": 1}}, "my.yaml")
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


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=1e-12, max_value=1e6), st.text(min_size=1).filter(lambda text: not text.startswith("-")),
       st.sampled_from(["cosine", "linear"]))
def test_command_line_and_yaml_agree(rate: float, name: str, schedule: str) -> None:
    words = ["here", "--train.learning-rate", repr(rate), "--train.schedule", schedule, f"--name={name}"]
    tree = {"place": "here", "train": {"learning_rate": rate, "schedule": schedule}, "name": name}
    assert resolve(OPTIONS, words) == resolve(OPTIONS, [], tree)


def test_words_that_python_keeps_to_itself() -> None:
    def add(*, with_: str, without: str = "") -> None:
        """Add.

        Args:
            with_: What to add.
            without: What to leave out.
        """
    opts = options(add)
    assert [(option.key, option.help) for option in opts] == [("with", "What to add."), ("without", "What to leave out.")]
    assert build(add, resolve(opts, ["--with", "7"])) == {"with_": "7", "without": ""}
