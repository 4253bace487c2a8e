"""Recordings in every usual layout become the same clips; what is wrong with a table is
named by file and line, and the rest is read.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from miaobi.core.errors import BadInput
from miaobi.data import readers
from miaobi.data.audio import loaders
from miaobi.data.audio.clips import Clip, Segment
from miaobi.data.audio.layouts import LAYOUTS, kind_of
from miaobi.data.encoding import Problem, raise_problem

Content = Mapping[str, str | bytes]


def written(folder: Path, files: Content) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        raw = content.encode() if isinstance(content, str) else content
        path.write_bytes(raw)
    return folder


def clips_of(path: Path) -> tuple[list[Clip], list[Problem]]:
    problems = list[Problem]()
    kind = kind_of(path)
    assert kind
    read = readers.get(kind, within="audio/")
    return list(read(path, problems.append)), problems


def texts(clips: list[Clip]) -> dict[str, tuple[str, str, str]]:
    return {clip.name: (clip.text, clip.spoken, clip.speaker) for clip in clips}


WAVS = {"wavs/a.wav": b"", "wavs/b.wav": b"", "wavs/c.wav": b""}


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("a|One.\nb|Two.\n", {"a": ("One.", "", ""), "b": ("Two.", "", "")}),
        (
            "a|In 1460.|In fourteen sixty.\nb|Two, too.|Two, too.\n",
            {
                "a": ("In 1460.", "In fourteen sixty.", ""),
                "b": ("Two, too.", "Two, too.", ""),
            },
        ),
        (
            "a|ann|Good morning.\nb|ann|How are you?\nc|bob|I am well, thanks.\n",
            {
                "a": ("Good morning.", "", "ann"),
                "b": ("How are you?", "", "ann"),
                "c": ("I am well, thanks.", "", "bob"),
            },
        ),
        (
            "wavs/a.wav|今天天气很好。|小丽\nwavs/b.wav|明天见。|小丽\n",
            {
                "wavs/a.wav": ("今天天气很好。", "", "小丽"),
                "wavs/b.wav": ("明天见。", "", "小丽"),
            },
        ),
        (
            "file|speaker|text\na.wav|ann|One.\n",
            {"a.wav": ("One.", "", "ann")},
        ),
        (
            "\ufeffa|One.\r\nb.wav|Two.\r\n",
            {"a": ("One.", "", ""), "b.wav": ("Two.", "", "")},
        ),
        ('"a"|"One | two."\n', {"a": ("One | two.", "", "")}),
        ('a|"One," he said.\n', {"a": ('"One," he said.', "", "")}),
        (
            "a|3 😀 apps, 你好 https://x.org\n",
            {"a": ("3 😀 apps, 你好 https://x.org", "", "")},
        ),
    ],
)
def test_ljspeech(tmp_path: Path, table: str, expected: dict[str, Any]) -> None:
    clips, problems = clips_of(written(tmp_path, {**WAVS, "metadata.csv": table}))
    assert not problems
    assert texts(clips) == expected
    assert clips[0].path == tmp_path / "wavs/a.wav"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("c|One|more|less", "has 4 columns, the others have 2"),
        ("c", "has 1 columns, the others have 2"),
        ("c|", "'c' has no text"),
        ("c|   ", "'c' has no text"),
        ("a|Again.", "'a' is there twice, first in line 1"),
        ("d|Absent.", "names the recording 'd', which is not there"),
        ("../secret|Outside.", "names the recording '../secret'"),
    ],
)
def test_bad_lines_of_a_table_are_named(
    tmp_path: Path, line: str, message: str
) -> None:
    table = f"a|One.\nb|Two.\n{line}\n"
    folder = written(tmp_path, {**WAVS, "metadata.csv": table})
    clips, problems = clips_of(folder)
    assert [clip.name for clip in clips] == ["a", "b"]
    assert [problem.line for problem in problems] == [3]
    assert message in problems[0].what
    assert problems[0].remedy
    with pytest.raises(BadInput, match=r"metadata\.csv:3"):
        list(LAYOUTS["ljspeech"].read(folder, raise_problem))


def test_columns_that_cannot_be_told_need_names(tmp_path: Path) -> None:
    folder = written(tmp_path, {**WAVS, "metadata.csv": "a|x|One.|One.\n"})
    with pytest.raises(BadInput, match=r"(?s)4 columns.*file\|speaker\|text"):
        clips_of(folder)
    table = "id|speaker|text|normalized_text\na|x|1.|One.\n"
    clips, _ = clips_of(written(tmp_path, {"metadata.csv": table}))
    assert texts(clips) == {"a": ("1.", "One.", "x")}


def test_a_list_file_alone_is_read(tmp_path: Path) -> None:
    folder = written(tmp_path, {**WAVS, "train_list.txt": "wavs/a.wav|One.|0\n"})
    clips, _ = clips_of(folder / "train_list.txt")
    assert texts(clips) == {"wavs/a.wav": ("One.", "", "0")}


def test_a_name_of_two_recordings_is_not_guessed(tmp_path: Path) -> None:
    files = {"x/a.wav": b"", "y/a.wav": b"", "x/b.wav": b""}
    folder = written(tmp_path, {**files, "metadata.csv": "b|Two.\na|One.\nx/a|One.\n"})
    clips, problems = clips_of(folder)
    assert [clip.name for clip in clips] == ["b", "x/a"]
    assert problems[0].line == 2


KALDI = {
    "wav.scp": "ann-1 sounds/a.wav\nann-2\tsounds/b.wav\n",
    "text": "ann-1 one two\nann-2 three\n",
    "utt2spk": "ann-1 ann\nann-2 ann\n",
    "sounds/a.wav": b"",
    "sounds/b.wav": b"",
}


def test_kaldi(tmp_path: Path) -> None:
    clips, problems = clips_of(written(tmp_path, KALDI))
    assert not problems
    assert texts(clips) == {
        "ann-1": ("one two", "", "ann"),
        "ann-2": ("three", "", "ann"),
    }
    segments = "ann-1 ann-2 0.5 1.25\nann-2 ann-2 2 1\nann-3 ann-2 x\n"
    clips, problems = clips_of(written(tmp_path, {"segments": segments}))
    assert [(c.path.name, c.begin, c.end) for c in clips] == [("b.wav", 0.5, 1.25)]
    assert [problem.line for problem in problems] == [2, 3]


def test_kaldi_runs_no_command(tmp_path: Path) -> None:
    command = f"ann-1 touch {tmp_path}/ran |\nann-2 sounds/b.wav\n"
    clips, problems = clips_of(written(tmp_path, {**KALDI, "wav.scp": command}))
    assert [clip.name for clip in clips] == ["ann-2"]
    assert "is a command, which is not run" in problems[0].what
    assert not (tmp_path / "ran").exists()


def test_kaldi_names_what_is_wrong(tmp_path: Path) -> None:
    bad = {
        "wav.scp": "ann-1 sounds/a.wav\nann-1 sounds/b.wav\nann-3 absent.wav\n",
        "text": "ann-1\n",
    }
    clips, problems = clips_of(written(tmp_path, {**KALDI, **bad}))
    assert not clips
    whats = "\n".join(problem.what for problem in problems)
    assert "'ann-1' is there twice" in whats
    assert "'absent.wav', which is not there" in whats
    assert "'ann-1' has no text" in whats


def test_vctk(tmp_path: Path) -> None:
    files = {
        "wav48_silence_trimmed/p225/p225_001_mic1.flac": b"",
        "wav48_silence_trimmed/p225/p225_001_mic2.flac": b"",
        "wav48_silence_trimmed/p315/p315_001_mic1.flac": b"",
        "txt/p225/p225_001.txt": "Please call Stella.\n",
        "speaker-info.txt": "ID  AGE  GENDER  ACCENTS  REGION\n225  23  F  English  Southern\n",
    }
    clips, problems = clips_of(written(tmp_path, files))
    assert texts(clips) == {"p225_001": ("Please call Stella.", "", "p225")}
    assert clips[0].meta == {"age": "23", "gender": "F", "accent": "English"}
    assert ["p315_001.txt" in problem.what for problem in problems] == [True]


def test_festvox(tmp_path: Path) -> None:
    files = {
        "etc/txt.done.data": '( a_1 "Он сказал: \\"да\\"." )\n( a_2 broken\n',
        "wav/a_1.wav": b"",
        "lab/a_1.lab": "separator ;\n#\n0.5 125 pau\n0.75 125 a\n",
    }
    clips, problems = clips_of(written(tmp_path, files))
    assert clips[0].text == 'Он сказал: "да".'
    assert clips[0].segments == (Segment("pau", 0.0, 0.5), Segment("a", 0.5, 0.75))
    assert [problem.line for problem in problems] == [2]
    clips, problems = clips_of(written(tmp_path, {"lab/a_1.lab": "#\nx 125 pau\n"}))
    assert clips[0].segments == ()
    assert "is no label" in problems[0].what


def test_asterisk(tmp_path: Path) -> None:
    table = (
        "; Sounds\n\nhello: Hello there.\ndigits/1: one\nbeep: [a beep]\nat: at [@]\n"
    )
    sounds = "sounds/en_US_f_Allison/"
    files: dict[str, bytes] = {
        f"{sounds}{name}.g722": b"" for name in ("hello", "digits/1", "beep", "at")
    }
    files["doc/core-sounds-en.txt.gz"] = gzip.compress(table.encode())
    clips, problems = clips_of(written(tmp_path, files))
    assert not problems
    assert {c.name: (c.text, c.label) for c in clips} == {
        "hello": ("Hello there.", None),
        "digits/1": ("one", None),
        "beep": ("", "a beep"),
        "at": ("at", None),
    }
    assert {clip.speaker for clip in clips} == {"en_US_f_Allison"}


KIT = """<?xml version="1.0"?>
<drumkit_info{namespace}><name>Kit</name><author>Ann</author><license>CC0</license>
<instrumentList><instrument><name>Kick</name><filename>kick.wav</filename></instrument>
<instrument><name>Snare</name><layer><filename>s1.flac</filename></layer>
<layer><filename>s2.flac</filename></layer></instrument></instrumentList></drumkit_info>
"""


@pytest.mark.parametrize(
    "namespace", ["", ' xmlns="http://www.hydrogen-music.org/drumkit"']
)
def test_hydrogen(tmp_path: Path, namespace: str) -> None:
    files = {"Kit/kick.wav": b"", "Kit/s1.flac": b"", "Broken/drumkit.xml": "<drumkit"}
    kit = {"Kit/drumkit.xml": KIT.format(namespace=namespace)}
    clips, problems = clips_of(written(tmp_path, {**files, **kit}))
    assert [(c.name, c.label) for c in clips] == [
        ("Kit/kick.wav", "Kick"),
        ("Kit/s1.flac", "Snare"),
    ]
    assert clips[0].meta == {"kit": "Kit", "author": "Ann", "licence": "CC0"}
    assert "not whole XML" in problems[0].what
    assert "'s2.flac', which is not there" in problems[1].what


def lines(*records: Any) -> str:
    return "".join(f"{json.dumps(record, ensure_ascii=False)}\n" for record in records)


def test_manifests_of_audiocraft_and_nemo(tmp_path: Path) -> None:
    table = lines(
        {"path": "a.wav", "duration": 3.0, "sample_rate": 16000},
        {"audio_filepath": "b.wav", "text": "你好", "duration": 2},
        {"audio_filepath": "b.wav", "text": "re", "offset": 1.5, "duration": 2},
    )
    files = {"a.wav": b"", "b.wav": b"", "a.json": '{"description": "rain", "bpm": 80}'}
    manifest = {"data.jsonl.gz": gzip.compress(table.encode())}
    clips, problems = clips_of(written(tmp_path, {**files, **manifest}))
    assert not problems
    assert [(c.name, c.text, c.begin, c.end) for c in clips] == [
        ("a.wav", "rain", 0, None),
        ("b.wav", "你好", 0, None),
        ("b.wav@1.5", "re", 1.5, 3.5),
    ]
    assert clips[0].meta["bpm"] == "80"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": "alone"}, "names no recording"),
        (["a.wav"], "names no recording"),
        ({"path": "x.wav"}, "'x.wav', which is not there"),
        ({"path": "a.wav"}, "is there twice"),
        ({"path": "a.wav", "offset": -1}, "are no times"),
        ({"path": "a.wav", "offset": "1"}, "are no times"),
    ],
)
def test_bad_lines_of_a_manifest_are_named(
    tmp_path: Path, record: Any, message: str
) -> None:
    table = lines({"path": "a.wav"}, record)
    clips, problems = clips_of(written(tmp_path, {"a.wav": b"", "m.jsonl": table}))
    assert [clip.name for clip in clips] == ["a.wav"]
    assert message in problems[0].what
    assert problems[0].line == 2


def test_folders_are_classes_and_splits(tmp_path: Path) -> None:
    files = {
        f"{split}/{kind}/{n}.wav": b""
        for split in ("train", "test")
        for kind in ("dog", "cat")
        for n in (1, 2)
    }
    clips, _ = clips_of(written(tmp_path, files))
    assert {(c.split, c.label) for c in clips} == {
        ("train", "dog"),
        ("train", "cat"),
        ("test", "dog"),
        ("test", "cat"),
    }


def test_captions_of_a_folder(tmp_path: Path) -> None:
    files = {
        "a.wav": b"",
        "a.txt": "rain on a roof\n",
        "b.mp3": b"",
        "b.json": '{"caption": "a bell", "speaker": "x", "label": "metal"}',
        "c.flac": b"",
        "c.txt": "\n",
        "d.ogg": b"",
        "d.json": "[1",
    }
    clips, problems = clips_of(written(tmp_path, files))
    assert [(c.text, c.speaker, c.label) for c in clips] == [
        ("rain on a roof", "", None),
        ("a bell", "x", "metal"),
        ("", "", None),
        ("", "", None),
    ]
    assert [problem.path.name for problem in problems] == ["c.txt", "d.json"]


def test_metadata_of_hugging_face(tmp_path: Path) -> None:
    table = 'file_name,transcription,speaker_id\na.wav,"One, two",7\nx.wav,Absent,7\n'
    files = {"data/a.wav": b"", "data/b.wav": b"", "data/metadata.csv": table}
    clips, problems = clips_of(written(tmp_path, files))
    assert (clips[0].text, clips[0].speaker, clips[0].line) == ("One, two", "7", 2)
    assert len(problems) == 2  # x.wav is absent, b.wav has no line


def test_no_sound_is_no_layout(tmp_path: Path) -> None:
    assert kind_of(written(tmp_path, {"a.txt": "x", "b.csv": "a|b\n"})) is None


def test_every_layout_is_registered() -> None:
    registered = {name for name in readers.names() if name.startswith("audio/")}
    assert registered == {f"audio/{name}" for name in LAYOUTS}


@pytest.mark.parametrize(
    ("name", "count", "with_text"),
    [
        ("pocketsphinx-testdata", 10, 10),
        ("asterisk-en", 566, 559),
        ("gcin-voice", 1200, 1200),
        ("sonic-pi-samples", 165, 0),
    ],
)
def test_packs_really_fetched(
    pack: Callable[[str], Path], name: str, count: int, with_text: int
) -> None:
    pack(name)
    clips = list(loaders.read(name))
    assert len(clips) == count
    assert sum(bool(clip.text) for clip in clips) == with_text
    assert len({clip.name for clip in clips}) == count
    assert all(clip.path.is_file() for clip in clips)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count"), [("festvox-ru", 620), ("hydrogen-drumkits", 704)]
)
def test_large_packs_really_fetched(
    pack: Callable[[str], Path], name: str, count: int
) -> None:
    pack(name)
    clips = list(loaders.read(name))
    assert len(clips) == count
    assert all(clip.segments for clip in clips) == (name == "festvox-ru")
