"""`miaobi generate speech` as a person uses it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from miaobi import cli
from miaobi.core.engine import Weights
from miaobi.data.audio import media
from miaobi.provenance.audio import read_record
from miaobi.verbs.generate import speech


@pytest.fixture(autouse=True)
def packaged(
    pack: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The pack as it lies in the tests' cache, and a folder to write to."""
    weights = Weights("kokoro", str(pack("kokoro")), "kokoro", modality="audio")
    monkeypatch.setattr(speech, "find", lambda name: weights)
    monkeypatch.chdir(tmp_path)


def test_a_text_in_two_languages(capsys: pytest.CaptureFixture[str]) -> None:
    """A labelled mp3 in the voice and at the speed that were asked for."""
    text = "今天天气很好。Hello there."
    options = ["--voice", "zf_xiaoxiao", "--speed", "1.1", "--out", "hello.mp3"]
    assert cli.main(["generate", "speech", text, *options, "--json"]) == 0
    printed = capsys.readouterr()
    answer = json.loads(printed.out)
    assert answer["out"] == "hello.mp3" and answer["voice"] == "zf_xiaoxiao"
    assert "zf_xiaoxiao" in printed.err and "AI-generated" in printed.err
    file = Path("hello.mp3")
    assert media.probe(file).codec.startswith("mp3")
    sound = media.read(file)
    assert sound.seconds == pytest.approx(answer["seconds"], abs=0.2)
    assert np.abs(sound.samples).max() > 0.05
    facts = read_record(file)
    assert facts["model"] == "kokoro"
    assert facts["parameters"] == {
        "prompt": text,
        "voice": "zf_xiaoxiao",
        "speed": 1.1,
    }


def test_without_a_name_the_file_is_named_after_the_model() -> None:
    assert cli.main(["generate", "speech", "--prompt", "Yes.", "--seed", "5"]) == 0
    assert media.probe(Path("kokoro-5.wav")).rate == 24_000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "There is no text to read aloud"),
        (["Hello.", "--prompt", "Hello."], "given twice"),
        (["Hello.", "--voice", "af_hart"], "Did you mean af_heart"),
        (["Hello.", "--speed", "9"], "--speed is 9"),
        (["Hello.", "--out", "a.doc"], "cannot be written as .doc"),
        (["Hello.", "--n", "2"], "does not offer n"),
    ],
)
def test_what_is_refused(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["generate", "speech", *arguments]) != 0
    assert said in capsys.readouterr().err
    assert not list(Path().iterdir())
