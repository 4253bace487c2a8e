"""Time and memory of data: batches of text and pictures, the peak of preparing a large
corpus, and refusing a decompression bomb.

Targets: 1 ms a batch of text (32 × 256 tokens), 3 ms a batch of digits (128), less than
half of the text's growth in memory, 0.5 s for a bomb. Run alone: python bench/data.py
"""

from __future__ import annotations

import json
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

from miaobi.core.errors import BadInput
from miaobi.data.dataset import Dataset
from miaobi.data.image import prepared as pictures
from miaobi.data.image.files import read_picture
from miaobi.data.text import tokens

BATCHES = 200
COPIES = (1, 7)
BOMB_SIDE = 20_000
PREPARATION = """
import re, sys
from pathlib import Path
from miaobi.data.text import tokens
separator = "\\\\n" if sys.argv[2] == "many" else None
tokens.prepare(tokens.Config(path=sys.argv[1], separator=separator), progress=False)
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""
"""Prints its peak in kB; ru_maxrss would count the parent's before the exec."""
TARGETS = {
    "text_batch_ms": 1.0,
    "digits_batch_ms": 3.0,
    "memory_share_many": 0.5,
    "memory_share_one": 0.5,
    "bomb_s": 0.5,
}


def batch_ms(data: Dataset, size: int) -> float:
    """Median milliseconds of a batch."""
    data.batch("train", 0, size, 0)
    seconds = list[float]()
    for index in range(BATCHES):
        began = time.perf_counter()
        data.batch("train", index, size, 0)
        seconds.append(time.perf_counter() - began)
    return 1e3 * statistics.median(seconds)


def text_batch_ms(folder: Path) -> float:
    file = folder / "poems.txt"
    poems = (f"poem {number}: 春眠不覺曉 {number * 7919}" for number in range(20_000))
    file.write_text("\n".join(poems), encoding="utf-8")
    config = tokens.Config(path=str(file))
    return batch_ms(tokens.prepare(config, cache=folder, progress=False), 32)


def digits_batch_ms(folder: Path) -> float:
    config = pictures.Config(pack="digits")
    return batch_ms(pictures.prepare(config, cache=folder, progress=False), 128)


def memory_share(folder: Path, documents: str) -> float:
    """Growth of the peak over growth of the text, for "many" documents or "one"."""
    peaks, sizes = list[float](), list[float]()
    for copies in COPIES:
        file = folder / f"{documents}-{copies}.txt"
        with file.open("w", encoding="utf-8") as handle:
            for copy in range(copies):
                for line in range(5000):
                    text = f"{copy} {line} 春眠不覺曉，處處聞啼鳥。 {'so it goes, ' * 80}\n"
                    handle.write(text)
        process = subprocess.run(
            [sys.executable, "-c", PREPARATION, str(file), documents],
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(process.stdout) / 1e3)
        sizes.append(file.stat().st_size / 1e6)
    return (peaks[1] - peaks[0]) / (sizes[1] - sizes[0])


def bomb_seconds(folder: Path) -> float:
    """1.2 GB of pixels in a file of a few hundred kilobytes, refused."""
    file = folder / "bomb.png"
    compressor = zlib.compressobj(1)
    row = b"\0" + bytes(BOMB_SIDE)
    rows = b"".join(compressor.compress(row) for _ in range(BOMB_SIDE))
    header = struct.pack(">IIBBBBB", BOMB_SIDE, BOMB_SIDE, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", rows + compressor.flush())]
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in chunks:
        content += struct.pack(">I", len(data)) + name + data
        content += struct.pack(">I", zlib.crc32(name + data))
    file.write_bytes(content)
    began = time.perf_counter()
    try:
        read_picture(file)
    except BadInput:
        return time.perf_counter() - began
    raise AssertionError("the bomb was decoded")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        metrics = {
            "text_batch_ms": text_batch_ms(folder),
            "digits_batch_ms": digits_batch_ms(folder),
            "memory_share_many": memory_share(folder, "many"),
            "memory_share_one": memory_share(folder, "one"),
            "bomb_s": bomb_seconds(folder),
        }
    print(json.dumps({key: round(value, 3) for key, value in metrics.items()}))
    missed = [key for key, target in TARGETS.items() if metrics[key] > target]
    if missed:
        sys.exit(f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
