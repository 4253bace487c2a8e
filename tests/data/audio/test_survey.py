"""What `miaobi data inspect` says of recordings: every fault of a made folder is found,
with its reason, and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from miaobi.core.errors import BadInput, Unsupported
from miaobi.data.audio import media, recordings
from miaobi.data.audio.clips import Clip
from miaobi.data.audio.faults import letters
from miaobi.data.audio.meter import measure
from miaobi.data.audio.survey import RecordingSurvey
from miaobi.verbs import data

RATE = 16_000
PACE = 12
"""Letters a second."""


def speech(seconds: float, seed: int, level: float = 0.1) -> np.ndarray:
    """Bursts of noise over a little hiss, as loud as speech."""
    random = np.random.default_rng(seed)
    samples = round(seconds * RATE)
    words = (np.arange(samples) // (RATE // 5)) % 2 == 0
    sound = random.normal(0, level, samples) * words
    return (sound + random.normal(0, level / 300, samples)).astype(np.float32)


def text_of(seconds: float) -> str:
    return ("abcde " * 100)[: round(seconds * PACE * 0.5 * 6 / 5)].strip()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve good clips, and one with each fault."""
    lines = list[str]()

    def add(name: str, sound: np.ndarray, text: str, rate: int = RATE) -> None:
        path = tmp_path / "wavs" / f"{name}.wav"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(media.encode(sound, rate, ".wav"))
        lines.append(f"{name}|{text}")

    for number in range(12):
        seconds = 2 + number / 4
        add(f"good{number}", speech(seconds, number), text_of(seconds))
    add("same", speech(2, 0), text_of(2))
    add("clash", speech(2.25, 1), text_of(2) + " and more")
    add("silent", np.zeros(RATE, np.float32), "nothing here")
    add("short", speech(0.05, 20), "a")
    add("cut", speech(1, 21), text_of(9))
    add("idle", speech(12, 22), "yes")
    add("clipped", (speech(2, 23) * 30).clip(-1, 1) * 0.9999, text_of(2))
    add("offset", speech(2, 24) * 0.7 + 0.05, text_of(2))
    add("noisy", speech(2, 25) + speech(2, 26).std() * _hiss(2), text_of(2))
    add("faint", speech(2, 27, 0.01), text_of(2))
    add("truncated", speech(4, 28), text_of(4))
    whole = (tmp_path / "wavs/truncated.wav").read_bytes()
    (tmp_path / "wavs/truncated.wav").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "wavs/broken.wav").write_bytes(b"RIFF")
    lines += ["broken|It cannot be opened.", "absent|It is not there."]
    (tmp_path / "metadata.csv").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


def _hiss(seconds: float) -> np.ndarray:
    return np.random.default_rng(9).normal(0, 1, round(seconds * RATE))


def test_every_fault_is_found_with_its_reason(folder: Path) -> None:
    survey = recordings.inspect(folder)
    left_out = {fault.clip: (fault.kind, fault.reason) for fault in survey.left_out}
    kinds = {name: kind for name, (kind, _) in left_out.items()}
    assert kinds == {
        "same": "duplicate",
        "clash": "duplicate",
        "silent": "silent",
        "short": "short",
        "cut": "pace",
        "idle": "pace",
        "truncated": "truncated",
    }
    assert "promises 4.0 s, 2.0 s are there" in left_out["truncated"][1]
    assert "same as good0" in left_out["same"][1]
    assert "good1" in left_out["clash"][1] and "another text" in left_out["clash"][1]
    assert "0.05 s long" in left_out["short"][1]
    noticed = {(fault.clip, fault.kind) for fault in survey.noticed}
    assert noticed >= {
        ("clipped", "clipped"),
        ("offset", "offset"),
        ("noisy", "noisy"),
        ("faint", "loudness"),
    }
    assert not {name for name, _ in noticed if name.startswith("good")}
    assert survey.problems == 2
    assert survey.clips == survey.texts == 16
    assert survey.rates == {"16000": 16}
    assert survey.lengths["shortest"] == 2
    assert survey.silence == pytest.approx(0.5, abs=0.1)


def test_it_is_printed_and_json(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from miaobi.cli import show

    survey = data.inspect(folder)
    assert isinstance(survey, RecordingSurvey)
    text = str(survey)
    assert "silent: nothing is heard in it." in text
    assert "LUFS" in text
    show(survey, as_json=True)
    fields = json.loads(capsys.readouterr().out)
    assert fields["clips"] == 16
    assert {fault["kind"] for fault in fields["left_out"]} >= {"pace", "silent"}


def test_files_that_are_whole_are_not_called_cut_off(tmp_path: Path) -> None:
    for ending in (".wav", ".flac", ".mp3", ".opus", ".m4a", ".aac"):
        path = tmp_path / f"a{ending}"
        path.write_bytes(media.encode(speech(2, 3), RATE, ending))
        assert measure(Clip("a", path)).missing < 0.01
        stream = media.Encoder(RATE, ".wav")
    path.with_suffix(".wav").write_bytes(stream.add(speech(2, 3)) + stream.finish())
    assert measure(Clip("a", path.with_suffix(".wav"))).missing == 0


def test_other_files_that_are_cut_off(tmp_path: Path) -> None:
    halves = dict[str, Path]()
    for ending in (".flac", ".m4a"):
        whole = media.encode(speech(8, 3), RATE, ending)
        halves[ending] = tmp_path / f"a{ending}"
        halves[ending].write_bytes(whole[: len(whole) // 2])
    assert measure(Clip("a", halves[".flac"])).missing > 2
    with pytest.raises(BadInput, match=r"a\.m4a"):  # the index was at its end
        measure(Clip("a", halves[".m4a"]))


def test_strict_stops_at_the_first_problem(folder: Path) -> None:
    with pytest.raises(BadInput, match="not there"):
        recordings.inspect(folder, strict=True)


def test_a_text_that_is_not_said_is_left_out(folder: Path) -> None:
    def recogniser(clip: Clip) -> float:
        return 0.9 if clip.name == "good3" else 0.02

    survey = recordings.inspect(folder, recogniser=recogniser)
    reasons = {fault.clip: fault.reason for fault in survey.left_out}
    assert reasons["good3"] == "it does not say its text (CER 90%)."
    assert survey.cer == {"median": 0.02, "worst": 0.9}
    assert "CER" in str(survey)


def test_a_folder_of_mixed_files(tmp_path: Path) -> None:
    sound = speech(1, 0)
    (tmp_path / "a.wav").write_bytes(media.encode(sound, 16_000, ".wav"))
    stereo = np.stack([sound, sound * 0.5])
    (tmp_path / "b.flac").write_bytes(media.encode(stereo, 44_100, ".flac"))
    (tmp_path / "a.txt").write_text("Call 110, see https://x.org 😀")
    survey = recordings.inspect(tmp_path)
    text = str(survey)
    assert survey.unspoken == 1
    assert "Several rates: what is above 8,000 Hz" in text
    assert "Mono and stereo are mixed" in text


def test_hours_are_measured_in_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three hours by their blocks: no piece is longer than the meter's."""
    from miaobi.data.audio import meter

    longest = list[int]()
    rate = 1000
    block = np.zeros((1, 60 * rate), np.float32)
    measured = meter.Meter(rate, 1)
    original = measured._measure

    def spy(piece: np.ndarray) -> None:
        longest.append(piece.shape[1])
        if len(longest) < 3:
            original(piece)

    monkeypatch.setattr(measured, "_measure", spy)
    for _ in range(180):
        measured.add(block)
    assert sum(longest) + measured._waiting_samples == 180 * 60 * rate
    assert max(longest) <= meter.PIECE * rate


def test_pictures_with_a_few_sounds_are_pictures(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "a.ogg"):
        (tmp_path / name).write_bytes(b"")
    assert not recordings.holds(tmp_path)
    (tmp_path / "b.png").unlink()
    assert recordings.holds(tmp_path)


def test_texts_are_no_recordings(tmp_path: Path) -> None:
    files = {
        "a.csv": "id|text\n1|Hello.\n2|There.\n",
        "b.jsonl": '{"path": "a.png", "text": "x"}\n',
        "c.json": '[\n  {"text": "x"}\n]\n',
        "d.txt": "Once upon a time | there was\n",
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
        assert not recordings.holds(tmp_path / name)
    assert not recordings.holds(tmp_path)


def test_nothing_trains_on_recordings_yet(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="no model family learns"):
        recordings.prepare(recordings.Config(str(tmp_path)))


def test_letters_count_by_what_is_said() -> None:
    assert letters("Hello, you!") == 8
    assert letters("你好。") == 6
    assert letters("😀 …") == 0


def test_a_real_pack(pack: Callable[[str], Path]) -> None:
    survey = recordings.inspect(pack("pocketsphinx-testdata"))
    assert (survey.clips, survey.rates) == (10, {"16000": 10})
    assert survey.seconds == pytest.approx(34, abs=1)


def test_the_samples_are_read_and_the_silent_one_is_left_out(tmp_path: Path) -> None:
    data.sample(tmp_path)
    survey = recordings.inspect(tmp_path / "recordings")
    assert survey.layout == "ljspeech"
    assert (survey.clips, survey.texts, survey.problems) == (5, 5, 0)
    assert [fault.clip for fault in survey.left_out] == ["rest"]
