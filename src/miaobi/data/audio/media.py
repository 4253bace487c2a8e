"""Sound files in and out: decoded and encoded by FFmpeg's libraries (PyAV), resampled by
libsoxr. Samples are float32 with full scale at ±1; mono is [samples], everything else
[channels, samples].

What comes in may be an upload of a stranger: only the formats of FORMATS are opened,
nothing a file names is followed, and decoding stops at LONGEST.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from miaobi.core.errors import BadInput, MissingPart, NotFound, Unsupported
from miaobi.core.language import say

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from av.packet import Packet

Source = Path | bytes | BinaryIO

FORMATS = (
    "aac,aiff,amr,asf,au,avi,caf,flac,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mp3,mpeg,"
    "mpegts,ogg,w64,wav,g722,gsm,mulaw,alaw"
)
"""FFmpeg's names of what is read. No playlists: they name other files."""
HEADERLESS = {".g722": "g722", ".gsm": "gsm", ".ulaw": "mulaw", ".alaw": "alaw"}
"""Raw telephone formats, by their ending: their content does not say what it is."""
SIGNATURES = (b"RIFF", b"OggS", b"fLaC", b"ID3")
"""What files begin with that do say what they are, whatever their ending."""
LONGEST = 4 * 3600.0
"""Seconds of one file that are read at most, unless a caller sets another limit."""
RATES = (1_000, 768_000)
"""Hz that a file may have: a header that says 1 Hz makes hours of a few bytes."""
EXACT = ("flac", "mov,mp4,m4a,3gp,3g2,mj2")
"""Formats of FFmpeg whose headers say how long the sound is."""
STREAMED = 0xFFFFFFFF
"""The size of a WAV whose end was not known when it was begun."""
RESAMPLING = "HQ"
"""libsoxr's quality: 20 bits of precision."""
SURROUND = {"FC": 2**0.5, "BC": 0.5**0.5, "LFE": 0.0, "LFE2": 0.0} | dict.fromkeys(
    ("BL", "BR", "SL", "SR"), 0.5**0.5
)
"""Weights of a mix by channel (ITU-R BS.775); left and right have 1."""


@dataclass(frozen=True, eq=False)
class Sound:
    """samples: float32 [samples] or [channels, samples]; rate in Hz."""

    samples: np.ndarray
    rate: int
    damaged: int = 0
    """Packets of the file that could not be decoded and were left out."""

    @property
    def seconds(self) -> float:
        return int(self.samples.shape[-1]) / self.rate


@dataclass(frozen=True)
class Probe:
    """What a file says of itself, without decoding it."""

    seconds: float | None
    """By its header; None where that does not tell, an estimate for some formats."""
    rate: int
    channels: int
    codec: str
    container: str
    tags: Mapping[str, str] = field(default_factory=dict)
    """In lower case."""


class Resampler:
    """Changes the rate of a sound that comes in blocks, by libsoxr."""

    def __init__(self, from_rate: int, to_rate: int, channels: int = 1) -> None:
        self.from_rate = from_rate
        self._channels = channels
        self._stream: Any = None
        if from_rate != to_rate:
            import soxr

            self._stream = soxr.ResampleStream(
                from_rate, to_rate, channels, quality=RESAMPLING
            )

    def add(self, block: np.ndarray) -> np.ndarray:
        """Return what has come out after a block [channels, samples]; it may be empty."""
        return block if self._stream is None else self._next(block, last=False)

    def finish(self) -> np.ndarray:
        """Return the rest, [channels, samples]."""
        nothing = np.zeros((self._channels, 0), np.float32)
        return nothing if self._stream is None else self._next(nothing, last=True)

    def _next(self, block: np.ndarray, last: bool) -> np.ndarray:
        resampled = self._stream.resample_chunk(block.T, last=last)
        rows: np.ndarray = resampled.reshape(-1, self._channels).T
        return rows


def resample(samples: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """Return float32 [samples] or [channels, samples] at another rate, in Hz."""
    rows = np.atleast_2d(samples)
    resampler = Resampler(from_rate, to_rate, len(rows))
    changed = np.concatenate([resampler.add(rows), resampler.finish()], axis=1)
    return changed[0] if samples.ndim == 1 else changed


@dataclass
class Decoding:
    """The blocks of one file, decoded one after the other.

    Attributes:
        rate: in Hz, what comes out.
        damaged: packets that could not be decoded, so far.
    """

    container: InputContainer
    stream: AudioStream
    name: str
    rate: int
    channels: int | None
    longest: float = LONGEST
    """Seconds that are read at most."""
    promised: float | None = None
    """Seconds that the header promises, for formats whose headers are exact."""
    damaged: int = 0

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield float32 [channels, samples], as long as the codec's frames are.

        Raises BadInput for NaN or infinite samples, for more than `longest`, for a rate
        that is none of RATES or changes on the way.
        """
        seconds = 0.0
        resampler: Resampler | None = None
        for frame in self._frames():
            if not RATES[0] <= frame.rate <= RATES[1]:
                raise _no_rate(self.name, frame.rate)
            if resampler is None:
                self.rate = self.rate or frame.rate
                channels = self.channels or len(_layout(frame))
                resampler = Resampler(frame.rate, self.rate, channels)
            if frame.rate != resampler.from_rate:
                raise BadInput(
                    say(
                        f"{self.name}: the rate changes from {resampler.from_rate} to {frame.rate} Hz on the way.",
                        f"{self.name}：采样率中途由 {resampler.from_rate} 变为 {frame.rate} Hz。",
                    ),
                    say("Convert it to one rate.", "请转换为单一采样率。"),
                )
            seconds += frame.samples / frame.rate
            if seconds > self.longest:
                raise _too_long(self.name, self.longest)
            samples = self._mixed(frame)
            if not np.isfinite(samples).all():
                raise _not_numbers(self.name, seconds)
            resampled = resampler.add(samples)
            if resampled.size:
                yield resampled
        if resampler is not None:
            rest = resampler.finish()
            if rest.size:
                yield rest

    def _frames(self) -> Iterator[AudioFrame]:
        from av.error import FFmpegError

        for packet in self._packets():
            try:
                frames = packet.decode()
            except FFmpegError:
                self.damaged += 1
                continue
            for frame in frames:
                if frame.samples:
                    yield frame

    def _packets(self) -> Iterator[Packet[AudioStream]]:
        """The packets up to where the file is so damaged that no more are found."""
        from av.error import FFmpegError

        try:
            yield from self.container.demux(self.stream)
        except FFmpegError:
            self.damaged += 1

    def _mixed(self, frame: AudioFrame) -> np.ndarray:
        samples = _as_float(frame)
        if self.channels is None or self.channels == len(samples):
            return samples
        mixed: np.ndarray = _mixing(_layout(frame), self.channels) @ samples
        return mixed


def read(
    source: Source,
    *,
    rate: int | None = None,
    channels: int | None = 1,
    longest: float = LONGEST,
) -> Sound:
    """Return the sound of a file, or of the sound track of a video.

    Args:
        source: a path, the bytes of a file, or a file opened for reading bytes.
        rate: in Hz, resampled to; None leaves the file's.
        channels: 1 mixes to [samples], 2 to [2, samples]; None leaves the file's,
            [channels, samples].
        longest: in seconds; decoding stops there, whatever the header says.

    Raises NotFound for a path that is not there; BadInput for what is not sound, has no
    samples, holds NaN, or is too long.
    """
    with decoding(source, rate=rate, channels=channels, longest=longest) as opened:
        blocks = list(opened.blocks())
        if not blocks:
            raise _empty(opened.name)
        samples = np.concatenate(blocks, axis=1)
    if channels == 1:
        samples = samples[0]
    return Sound(samples, opened.rate, opened.damaged)


@contextmanager
def decoding(
    source: Source,
    *,
    rate: int | None = None,
    channels: int | None = 1,
    longest: float = LONGEST,
) -> Iterator[Decoding]:
    """Open what `read` reads, for reading it by blocks in little memory."""
    if channels not in (None, 1, 2):
        raise BadInput(
            say(
                f"channels is {channels}; supported: 1, 2, or none to leave them.",
                f"channels 为 {channels}；支持 1、2，留空则不变。",
            ),
            field="channels",
        )
    with _opened(source) as (container, stream, name):
        promised = _promised(source, container, stream)
        yield Decoding(container, stream, name, rate or 0, channels, longest, promised)


def _promised(
    source: Source, container: InputContainer, stream: AudioStream
) -> float | None:
    """Seconds by the header, where it is exact: FLAC, MP4, and a WAV of a path."""
    name = container.format.name
    if name == "wav" and isinstance(source, Path):
        return _wav_seconds(source)
    if name in EXACT and stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return None


def _wav_seconds(path: Path) -> float | None:
    """The length that a RIFF file's chunks give; FFmpeg gives the length that is there."""
    bytes_a_second = 0
    with path.open("rb") as file:
        file.seek(12)
        while len(head := file.read(8)) == 8:
            size = int.from_bytes(head[4:], "little")
            if head[:4] == b"data":
                is_open = size in (0, STREAMED) or not bytes_a_second
                return None if is_open else size / bytes_a_second
            if head[:4] == b"fmt ":
                values = file.read(size)
                bytes_a_second = int.from_bytes(values[8:12], "little")
                file.seek(size % 2, io.SEEK_CUR)
            else:
                file.seek(size + size % 2, io.SEEK_CUR)
    return None


def probe(source: Source) -> Probe:
    """Return what a file says of itself. Raises as `read` does."""
    with _opened(source) as (container, stream, _):
        seconds = None
        if stream.duration and stream.time_base:
            seconds = float(stream.duration * stream.time_base)
        elif container.duration:
            seconds = container.duration / 1_000_000
        tags = {**container.metadata, **stream.metadata}
        return Probe(
            seconds,
            stream.rate or 0,
            stream.channels,
            stream.codec_context.codec.canonical_name,
            container.format.name,
            {name.lower(): value for name, value in tags.items()},
        )


@contextmanager
def _opened(source: Source) -> Iterator[tuple[InputContainer, AudioStream, str]]:
    """The opened container, its first stream of sound, and its name for errors."""
    av = _av()
    name = str(source) if isinstance(source, Path) else say("The sound", "该音频")
    file = _file(source)
    try:
        format_name = _headerless(source, file)
        options = {"format_whitelist": FORMATS}
        try:
            container = av.open(file, format=format_name, container_options=options)
        except (av.error.FFmpegError, ValueError) as error:
            raise _not_sound(name, error) from None
        with container:
            if not container.streams.audio:
                raise BadInput(
                    say(f"{name} has no sound in it.", f"{name} 中没有声音。"),
                    say(
                        "Give a recording, or a video with a sound track.",
                        "请提供录音，或带声音的视频。",
                    ),
                )
            yield container, container.streams.audio[0], name
    finally:
        if file is not source:
            file.close()


def _file(source: Source) -> BinaryIO:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if not isinstance(source, Path):
        return source
    try:
        return source.open("rb")
    except FileNotFoundError:
        raise NotFound(
            say(f"There is no file {source}.", f"没有文件 {source}。"),
            say("Check the path.", "请检查路径。"),
        ) from None
    except IsADirectoryError:
        raise BadInput(
            say(f"{source} is a folder.", f"{source} 是文件夹。"),
            say("Give one of its files.", "请给出其中的一个文件。"),
        ) from None


def _headerless(source: Source, file: BinaryIO) -> str | None:
    """FFmpeg's name of a raw format, by the ending; None for what names itself."""
    ending = source.suffix.lower() if isinstance(source, Path) else ""
    if ending not in HEADERLESS:
        return None
    signature = file.read(4)
    file.seek(0)
    return None if signature.startswith(SIGNATURES) else HEADERLESS[ending]


def _as_float(frame: AudioFrame) -> np.ndarray:
    """A frame as float32 [channels, samples]."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(frame.samples, -1).T
    if samples.dtype.kind == "u":
        return (samples.astype(np.float32) - 128) / 128
    if samples.dtype.kind == "i":
        full_scale = np.float32(2 ** (8 * samples.itemsize - 1))
        return samples.astype(np.float32) / full_scale
    return samples.astype(np.float32)


def _layout(frame: AudioFrame) -> list[str]:
    return [channel.name for channel in frame.layout.channels]


def _mixing(names: Sequence[str], channels: int) -> np.ndarray:
    """Weights [channels, channels of the file]; each row sums to one, so that a mix does
    not clip.
    """
    weights = np.array([SURROUND.get(name, 1.0) for name in names], np.float32)
    rows = np.stack([weights] * channels)
    is_stereo = channels == 2 and {"FL", "FR"} <= set(names)
    if is_stereo:
        for column, name in enumerate(names):
            rows[0, column] *= not name.endswith("R")
            rows[1, column] *= not name.endswith("L")
    if not rows.any():
        rows[:] = 1
    weights_by_row: np.ndarray = rows / rows.sum(axis=1, keepdims=True)
    return weights_by_row


@dataclass(frozen=True)
class Format:
    """How one ending is encoded."""

    codec: str
    container: str
    media_type: str
    rates: tuple[int, ...] = ()
    """Those that the codec takes, rising; empty for all."""
    bits_a_second: int | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    streamable: bool = True
    """Whether it can be written without going back to its beginning."""


ENCODED = {
    ".mp3": Format(
        "libmp3lame",
        "mp3",
        "audio/mpeg",
        rates=(8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000),
        bits_a_second=96_000,
    ),
    ".opus": Format(
        "libopus",
        "ogg",
        "audio/ogg",
        rates=(8000, 12000, 16000, 24000, 48000),
        bits_a_second=48_000,
    ),
    ".aac": Format(
        "aac",
        "adts",
        "audio/aac",
        rates=(8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000),
        bits_a_second=96_000,
        options={"write_id3v2": "1"},
    ),
    ".flac": Format("flac", "flac", "audio/flac"),
    ".wav": Format("pcm_s16le", "wav", "audio/wav"),
    ".pcm": Format("pcm_s16le", "s16le", "audio/pcm"),
}
ENCODED[".ogg"] = ENCODED[".opus"]
ENCODED[".m4a"] = Format(
    "aac",
    "ipod",
    "audio/mp4",
    rates=ENCODED[".aac"].rates,
    bits_a_second=96_000,
    streamable=False,
)
"""What is written, by ending. Bits a second are of one channel."""


REPEATABLE = {"fflags": "+bitexact"}
"""FFmpeg gives every Ogg file a random number; the same sound shall be the same file."""


class Encoder:
    """Encodes sound piece by piece: bytes of the file come as soon as they are there.

    Use: `encoder = Encoder(24_000, ".mp3")`, then the bytes of each `add(samples)`, and
    of `finish()`.
    """

    def __init__(
        self,
        rate: int,
        ending: str,
        *,
        channels: int = 1,
        tags: Mapping[str, str] | None = None,
        sink: BinaryIO | None = None,
    ) -> None:
        """Args:
            rate: of the samples, in Hz; resampled where the format does not take it.
            ending: one of ENCODED.
            channels: 1 or 2.
            tags: written into the file, by FFmpeg's names: title, comment, …; `.pcm`
                holds none.
            sink: a file that can be searched, to write to; without it `add` returns
                the bytes, and what needs to go back to its beginning is refused.

        Raises Unsupported for an ending that is not encoded.
        """
        format = _format(ending)
        if sink is None and not format.streamable:
            raise Unsupported(
                say(
                    f"{ending} cannot be sent while it is being made.",
                    f"{ending} 不能边生成边发送。",
                ),
                say("Choose .aac or .mp3.", "请选用 .aac 或 .mp3。"),
            )
        self._pipe = _Pipe() if sink is None else sink
        av = _av()
        self._container = av.open(
            self._pipe,
            "w",
            format=format.container,
            options={**REPEATABLE, **format.options},
        )
        self.rate = _nearest_rate(rate, format.rates)
        self._layout = "mono" if channels == 1 else "stereo"
        self._stream = self._container.add_stream(format.codec, rate=self.rate)
        self._stream.layout = self._layout
        if format.bits_a_second:
            self._stream.bit_rate = format.bits_a_second * channels
        for metadata in (self._container.metadata, self._stream.metadata):
            metadata.update(tags or {})
        self._resampler = Resampler(rate, self.rate, channels)
        self._written = 0

    def add(self, samples: np.ndarray) -> bytes:
        """Encode float32 [samples] or [channels, samples]; what is beyond ±1 is clipped.

        Returns what has come out; empty where the codec waits for more.
        """
        rows = np.atleast_2d(np.asarray(samples, np.float32))
        self._encode(self._resampler.add(rows))
        return self._output()

    def finish(self) -> bytes:
        """Return the rest of the file."""
        self._encode(self._resampler.finish())
        for packet in self._stream.encode(None):
            self._container.mux(packet)
        self._container.close()
        return self._output()

    def _encode(self, rows: np.ndarray) -> None:
        if not rows.shape[1]:
            return
        from av.audio.frame import AudioFrame

        clipped = np.ascontiguousarray(rows.clip(-1, 1))
        frame = AudioFrame.from_ndarray(clipped, format="fltp", layout=self._layout)
        frame.rate = self.rate
        frame.pts = self._written
        self._written += rows.shape[1]
        for packet in self._stream.encode(frame):
            self._container.mux(packet)

    def _output(self) -> bytes:
        return self._pipe.drain() if isinstance(self._pipe, _Pipe) else b""


class _Pipe:
    """What FFmpeg writes to without going back."""

    def __init__(self) -> None:
        self._parts = list[bytes]()

    def write(self, part: Any) -> int:
        self._parts.append(bytes(part))
        return len(part)

    def drain(self) -> bytes:
        """Return and forget what was written."""
        parts, self._parts = self._parts, []
        return b"".join(parts)


def encode(
    samples: np.ndarray,
    rate: int,
    ending: str,
    tags: Mapping[str, str] | None = None,
) -> bytes:
    """Return the file of a sound.

    Args:
        samples: float32 [samples], or [channels, samples] of one or two channels; what
            is beyond ±1 is clipped.
        rate: in Hz. A codec that does not take it gets the next higher one it takes.
        ending: one of ENCODED; `.pcm` is 16 bits, little-endian, without a header.
        tags: written into the file by FFmpeg's names: title, comment, …

    Raises Unsupported for another ending; BadInput for samples that are no sound.
    """
    rows = np.atleast_2d(samples)
    _check_samples(rows)
    file = io.BytesIO()
    encoder = Encoder(rate, ending, channels=len(rows), tags=tags, sink=file)
    encoder.add(rows)
    encoder.finish()
    return file.getvalue()


def media_type(ending: str) -> str:
    """Return the media type of an ending of ENCODED. Raises Unsupported."""
    return _format(ending).media_type


def _format(ending: str) -> Format:
    if ending not in ENCODED:
        raise Unsupported(
            say(
                f"Sound cannot be written as {ending or 'a file without an ending'}.",
                f"声音不能写成 {ending or '没有扩展名的文件'}。",
            ),
            say(
                f"Choose one of {', '.join(ENCODED)}.",
                f"请选用 {'、'.join(ENCODED)}。",
            ),
        )
    return ENCODED[ending]


def _nearest_rate(rate: int, rates: Sequence[int]) -> int:
    """The rate itself where a codec takes it, else the next higher that it takes."""
    if not rates or rate in rates:
        return rate
    return min((other for other in rates if other > rate), default=rates[-1])


def _check_samples(rows: np.ndarray) -> None:
    if rows.ndim != 2 or len(rows) not in (1, 2) or not rows.shape[1]:
        shape = "×".join(map(str, rows.shape))
        raise BadInput(
            say(
                f"Sound of the shape {shape} cannot be written.",
                f"无法写出形状为 {shape} 的声音。",
            ),
            say(
                "Give [samples], or [channels, samples] of one or two channels.",
                "请给出 [采样]，或一至两个声道的 [声道, 采样]。",
            ),
        )
    if not np.isfinite(rows).all():
        raise BadInput(
            say(
                "The sound holds NaN or infinite samples.",
                "声音中含有 NaN 或无穷大的采样。",
            )
        )


def _av() -> Any:
    try:
        import av
        import soxr  # noqa: F401
    except ImportError as error:
        raise MissingPart(
            say(
                f"Sound needs the package {error.name}, which is not installed.",
                f"处理声音需要 {error.name} 包，目前未安装。",
            ),
            "pip install 'miaobi[audio]'",
        ) from None
    return av


def _not_sound(name: str, error: Exception) -> BadInput:
    reason = getattr(error, "strerror", None) or str(error)
    return BadInput(
        say(
            f"{name} is not a sound file that can be read: {reason}.",
            f"{name} 不是可读取的音频文件：{reason}。",
        ),
        say(
            "Supported: wav, flac, mp3, ogg, opus, m4a, aac, webm, mp4 and others of FFmpeg's; "
            "a file that was cut off must be copied again.",
            "支持 wav、flac、mp3、ogg、opus、m4a、aac、webm、mp4 等；若文件不完整，请重新复制。",
        ),
    )


def _empty(name: str) -> BadInput:
    return BadInput(
        say(f"{name} has no samples.", f"{name} 中没有采样。"),
        say("Copy or record it again.", "请重新复制或录制。"),
    )


def _too_long(name: str, longest: float) -> BadInput:
    minutes = longest / 60
    return BadInput(
        say(
            f"{name} is longer than {minutes:g} minutes.",
            f"{name} 超过 {minutes:g} 分钟。",
        ),
        say("Cut it into parts.", "请分段处理。"),
    )


def _no_rate(name: str, rate: int) -> BadInput:
    lowest, highest = RATES
    return BadInput(
        say(
            f"{name} says that its rate is {rate:,} Hz; {lowest:,} to {highest:,} Hz are read.",
            f"{name} 标明采样率为 {rate:,} Hz；可读取 {lowest:,} 至 {highest:,} Hz。",
        ),
        say("Export it again, at 16,000 Hz or more.", "请以 16,000 Hz 以上重新导出。"),
    )


def _not_numbers(name: str, seconds: float) -> BadInput:
    return BadInput(
        say(
            f"{name} holds NaN or infinite samples at {seconds:.2f} s.",
            f"{name} 在 {seconds:.2f} 秒处含有 NaN 或无穷大的采样。",
        ),
        say("Export it again as 16-bit sound.", "请重新导出为 16 位音频。"),
    )
