"""The writer of videos: animations with their facts inside, as pictures have them."""

from __future__ import annotations

from collections.abc import Sequence

from miaobi.core.artifacts import Video
from miaobi.core.errors import Unsupported
from miaobi.core.language import say
from miaobi.provenance.image import encode_frames
from miaobi.provenance.label import record as record

ARTIFACT = Video
ENDINGS = {".gif": "image/gif", ".webp": "image/webp"}
NUMBERED = False


def encode(videos: Sequence[Video], ending: str) -> bytes:
    """Return the file of one video. Raises Unsupported for several."""
    if len(videos) > 1:
        raise Unsupported(
            say(
                f"{len(videos)} videos do not fit into one file.",
                f"一个文件容纳不下 {len(videos)} 段视频。",
            ),
            say("Write each by itself.", "请分别写出。"),
        )
    video = videos[0]
    return encode_frames(list(video.frames), ending, record(video), 1 / video.fps)
