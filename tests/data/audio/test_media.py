"""Sound files of every kind come in as the same samples, or are refused by name."""

from __future__ import annotations

import io
import struct
import wave
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from miaobi.core.errors import BadInput, NotFound, Unsupported
from miaobi.data.audio import media

RATE = 24_000
PLAIN_RIFF, EXTENSIBLE = 1, 0xFFFE
FLOAT = 3
GUID_REST = bytes.fromhex("000000001000800000aa00389b71")


def sine(seconds: float = 0.5, rate: int = RATE, hertz: float = 440.0) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


def riff(
    samples: bytes,
    bits: int,
    rate: int = RATE,
    channels: int = 1,
    kind: int = PLAIN_RIFF,
    extensible: bool = False,
    mask: int = 0,
) -> bytes:
    """A WAV file, built by hand."""
    block = channels * bits // 8
    head = struct.pack(
        "<HHIIHH",
        EXTENSIBLE if extensible else kind,
        channels,
        rate,
        rate * block,
        block,
        bits,
    )
    if extensible:
        head += struct.pack("<HHIH", 22, bits, mask, kind) + GUID_REST
    chunks = b"fmt " + struct.pack("<I", len(head)) + head
    chunks += b"data" + struct.pack("<I", len(samples)) + samples
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def encoded(container: str, codec: str, rate: int, **options: Any) -> bytes:
    """A file of FFmpeg's, without any of our settings."""
    file = io.BytesIO()
    with av.open(file, "w", format=container, options=options) as output:
        stream = output.add_stream(codec, rate=rate, layout="mono")
        samples = sine(rate=rate)[None]
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.rate = rate
        for part in (frame, None):
            output.mux(stream.encode(part))
    return file.getvalue()


def as_24_bits(samples: np.ndarray) -> bytes:
    scaled = np.round(samples * (2**23 - 1)).astype("<i4")
    return scaled.view(np.uint8).reshape(-1, 4)[:, :3].tobytes()


SINE = sine()
AS_8_BITS = np.round(SINE * 127 + 128).astype("u1").tobytes()
AS_16_BITS = np.round(SINE * 32767).astype("<i2").tobytes()
AS_32_BITS = np.round(SINE * (2**31 - 1.0)).astype("<i4").tobytes()
AS_DOUBLES = SINE.astype("<f8").tobytes()
WAVS = {
    "8-bit": (riff(AS_8_BITS, 8), 0.01),
    "16-bit": (riff(AS_16_BITS, 16), 1e-4),
    "24-bit": (riff(as_24_bits(SINE), 24), 1e-6),
    "32-bit": (riff(AS_32_BITS, 32), 1e-6),
    "float32": (riff(SINE.tobytes(), 32, kind=FLOAT), 0),
    "float64": (riff(AS_DOUBLES, 64, kind=FLOAT), 0),
    "WAVE_EXTENSIBLE": (
        riff(as_24_bits(SINE), 24, extensible=True, mask=4),
        1e-6,
    ),
}


@pytest.mark.parametrize("name", WAVS)
def test_every_wav_gives_the_same_samples(name: str) -> None:
    file, error = WAVS[name]
    sound = media.read(file)
    assert sound.rate == RATE
    assert sound.samples.dtype == np.float32
    assert sound.samples.shape == SINE.shape
    assert abs(sound.samples - SINE).max() <= error


def test_a_wrong_ending_does_not_matter(tmp_path: Path) -> None:
    for name, file in {
        "really.mp3": WAVS["16-bit"][0],
        "really.g722": WAVS["16-bit"][0],
        "really.wav": media.encode(SINE, RATE, ".mp3"),
    }.items():
        path = tmp_path / name
        path.write_bytes(file)
        assert media.read(path).seconds == pytest.approx(0.5, abs=0.05)


def test_a_truncated_file_gives_what_is_there() -> None:
    wav, mp3 = WAVS["16-bit"][0], media.encode(SINE, RATE, ".mp3")
    assert media.read(wav[: len(wav) // 2]).seconds == pytest.approx(0.25, abs=0.01)
    flac = media.encode(sine(4), RATE, ".flac")
    cut = flac[: len(flac) // 2]
    assert 1 < media.read(cut).seconds < 2.5
    assert media.probe(cut).seconds == 4
    assert media.read(mp3[: len(mp3) // 2]).seconds == pytest.approx(0.25, abs=0.1)


@pytest.mark.parametrize("ending", [".m4a", ".wav", ".flac", ".mp3", ".ogg"])
def test_a_file_cut_in_its_header_is_refused_by_name(
    tmp_path: Path, ending: str
) -> None:
    path = tmp_path / f"cut{ending}"
    path.write_bytes(media.encode(SINE, RATE, ending)[:30])
    with pytest.raises(BadInput, match=r"cut\."):
        media.read(path)


def test_what_is_no_sound_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"hello, world\n" * 100, b"\x89PNG\r\n\x1a\n" + bytes(100)):
        path = tmp_path / "voice.wav"
        path.write_bytes(content)
        with pytest.raises(BadInput, match=r"voice\.wav"):
            media.read(path)
    with pytest.raises(BadInput, match="no samples"):
        media.read(riff(b"", 16))
    with pytest.raises(BadInput, match="folder"):
        media.read(tmp_path)
    with pytest.raises(NotFound, match="absent"):
        media.read(tmp_path / "absent.wav")


def test_nan_is_named_with_its_time() -> None:
    samples = SINE.copy()
    samples[6000] = np.nan
    with pytest.raises(BadInput, match=r"NaN or infinite samples at 0\.\d\d s"):
        media.read(riff(samples.tobytes(), 32, kind=FLOAT))


def test_surround_is_mixed_without_clipping_and_without_its_bass() -> None:
    loud = np.ones((2400, 6), np.float32)
    file = riff(loud.tobytes(), 32, channels=6, kind=FLOAT, extensible=True, mask=0x3F)
    assert media.probe(file).channels == 6
    assert media.read(file, channels=None).samples.shape == (6, 2400)
    assert np.allclose(media.read(file).samples, 1)
    bass = loud * np.array([0, 0, 0, 1, 0, 0], np.float32)
    file = riff(bass.tobytes(), 32, channels=6, kind=FLOAT, extensible=True, mask=0x3F)
    assert not media.read(file).samples.any()


def test_stereo_mixes_to_its_mean_and_mono_is_heard_on_both_sides() -> None:
    left_only = np.stack([SINE, 0 * SINE], axis=1)
    stereo = riff(left_only.astype("<f4").tobytes(), 32, channels=2, kind=FLOAT)
    assert np.allclose(media.read(stereo).samples, SINE / 2)
    assert np.array_equal(media.read(stereo, channels=2).samples, left_only.T)
    both = media.read(WAVS["float32"][0], channels=2).samples
    assert np.array_equal(both, np.stack([SINE, SINE]))
    with pytest.raises(BadInput, match="channels is 5"):
        media.read(stereo, channels=5)


def test_96_khz_is_resampled_and_keeps_its_pitch() -> None:
    file = riff(sine(rate=96_000).astype("<f4").tobytes(), 32, 96_000, kind=FLOAT)
    sound = media.read(file, rate=16_000)
    assert sound.rate == 16_000
    assert sound.samples.shape == (8000,)
    assert np.allclose(sound.samples[200:-200], sine(rate=16_000)[200:-200], atol=1e-3)


def test_resampling_by_blocks_is_resampling_at_once() -> None:
    import soxr

    file = media.encode(SINE, RATE, ".flac")
    by_blocks = media.read(file, rate=16_000).samples
    at_once = soxr.resample(media.read(file).samples, RATE, 16_000)
    assert by_blocks.shape == at_once.shape
    assert np.allclose(by_blocks, at_once, atol=1e-5)
    assert np.allclose(media.resample(SINE, RATE, 16_000), by_blocks, atol=1e-3)


def test_a_twentieth_of_a_second_is_read() -> None:
    short = sine(0.05)
    for ending in (".wav", ".flac", ".mp3", ".ogg"):
        sound = media.read(media.encode(short, RATE, ending), rate=16_000)
        assert sound.seconds == pytest.approx(0.05, abs=0.03)


def test_variable_mp3_without_a_header_has_all_its_samples() -> None:
    file = encoded("mp3", "libmp3lame", RATE, write_xing="0", q="4")
    assert b"Xing" not in file and b"Info" not in file
    assert media.read(file).seconds == pytest.approx(0.5, abs=0.1)


def test_raw_telephone_sound_is_opened_by_its_suffix(tmp_path: Path) -> None:
    for name, codec, container, rate in (
        ("hello.g722", "g722", "g722", 16_000),
        ("hello.ulaw", "pcm_mulaw", "mulaw", 8_000),
    ):
        path = tmp_path / name
        path.write_bytes(encoded(container, codec, rate))
        sound = media.read(path)
        assert sound.rate == media.probe(path).rate
        assert sound.seconds * sound.rate / rate == pytest.approx(0.5, abs=0.05)


def video(with_sound: bool) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        pictures = output.add_stream("mpeg4", rate=10)
        pictures.width = pictures.height = 32
        pictures.pix_fmt = "yuv420p"
        sound = output.add_stream("aac", rate=RATE) if with_sound else None
        for _ in range(5):
            pixels = np.zeros((32, 32, 3), np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            output.mux(pictures.encode(frame))
        output.mux(pictures.encode(None))
        if sound:
            heard = av.AudioFrame.from_ndarray(SINE[None], format="fltp", layout="mono")
            heard.rate = RATE
            output.mux(sound.encode(heard))
            output.mux(sound.encode(None))
    return file.getvalue()


def test_of_a_video_its_sound_is_read() -> None:
    assert media.read(video(True)).seconds == pytest.approx(0.5, abs=0.1)
    with pytest.raises(BadInput, match="no sound in it"):
        media.read(video(False))


def test_nothing_that_a_file_names_is_opened(tmp_path: Path) -> None:
    secret = tmp_path / "secret.wav"
    secret.write_bytes(WAVS["16-bit"][0])
    lists = {
        "list.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n",
        "list.ffconcat": f"ffconcat version 1.0\nfile '{secret}'\n",
    }
    for name, content in lists.items():
        path = tmp_path / name
        path.write_text(content)
        with pytest.raises(BadInput, match="not a sound file"):
            media.read(path)


def test_no_more_is_read_than_the_limit() -> None:
    with pytest.raises(BadInput, match=r"longer than 0\.005 minutes"):
        media.read(WAVS["16-bit"][0], longest=0.3)
    assert media.read(WAVS["16-bit"][0], longest=0.6).seconds == 0.5


def test_a_header_that_makes_hours_of_a_few_bytes_is_refused() -> None:
    with pytest.raises(BadInput, match="its rate is 1 Hz"):
        media.read(riff(AS_16_BITS, 16, rate=1), rate=16_000)


@pytest.mark.parametrize("ending", media.ENCODED)
def test_what_is_damaged_is_read_or_refused(ending: str) -> None:
    """Bytes changed anywhere, and the end cut off: never another error."""
    random = np.random.default_rng(0)
    whole = np.frombuffer(media.encode(SINE, RATE, ending, {"title": "x"}), np.uint8)
    for number in range(30):
        file = whole.copy()
        places = random.integers(0, len(file) if number % 2 else 200, size=10)
        file[places] = random.integers(0, 256, size=10)
        length = len(file) if number % 3 else random.integers(1, len(file))
        try:
            sound = media.read(file[:length].tobytes(), rate=16_000)
        except BadInput:
            continue
        assert np.isfinite(sound.samples).all()


def test_an_open_file_is_left_open() -> None:
    file = io.BytesIO(WAVS["16-bit"][0])
    media.read(file)
    assert not file.closed


@pytest.mark.parametrize("ending", media.ENCODED)
@pytest.mark.parametrize("channels", [1, 2])
def test_what_is_written_sounds_the_same(ending: str, channels: int) -> None:
    sound = np.stack([SINE, sine(hertz=660)][:channels])
    file = media.encode(sound, RATE, ending, {"comment": "你好"})
    if ending == ".pcm":
        back = np.frombuffer(file, "<i2").reshape(-1, channels).T / 32768
    else:
        assert media.probe(file).tags["comment"] == "你好"
        back = media.read(file, rate=RATE, channels=None).samples
    shorter = min(back.shape[1], sound.shape[1])
    first = 3000  # an AAC file begins with the encoder's delay
    spectrum = abs(np.fft.rfft(back[:, first : shorter - 100]))
    peaks = spectrum.argmax(axis=1) * RATE / (shorter - 100 - first)
    assert np.allclose(peaks, [440, 660][:channels], atol=5)
    assert abs(back).max() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    "ending", [e for e, format in media.ENCODED.items() if format.streamable]
)
def test_a_stream_is_a_file_of_the_same_sound(ending: str) -> None:
    encoder = media.Encoder(22_050, ending)
    parts = [encoder.add(part) for part in np.split(sine(2.0, 22_050), 20)]
    assert any(parts)
    file = b"".join([*parts, encoder.finish()])
    is_raw = ending == ".pcm"
    seconds = len(file) / 44_100 if is_raw else media.read(file).seconds
    assert seconds == pytest.approx(2, abs=0.12)


def test_too_loud_is_clipped_not_wrapped() -> None:
    file = media.encode(4 * SINE, RATE, ".wav")
    with wave.open(io.BytesIO(file)) as opened:
        values = np.frombuffer(opened.readframes(-1), "<i2")
    assert values.max() == 32767
    assert np.array_equal(np.sign(values), np.sign(np.round(4 * SINE * 32767)))


def test_what_cannot_be_written_is_refused() -> None:
    with pytest.raises(Unsupported, match=r"\.wma"):
        media.encode(SINE, RATE, ".wma")
    with pytest.raises(Unsupported, match="while it is being made"):
        media.Encoder(RATE, ".m4a")
    with pytest.raises(BadInput, match="3×10"):
        media.encode(np.zeros((3, 10), np.float32), RATE, ".wav")
    with pytest.raises(BadInput, match="NaN"):
        media.encode(np.full(10, np.nan, np.float32), RATE, ".wav")


@pytest.mark.parametrize("rate", [11_000, 22_050, 44_100, 192_000])
@pytest.mark.parametrize("ending", [".mp3", ".opus", ".aac", ".wav", ".flac"])
def test_every_rate_can_be_written(ending: str, rate: int) -> None:
    file = media.encode(sine(0.3, rate), rate, ending)
    assert media.read(file).seconds == pytest.approx(0.3, abs=0.2)
