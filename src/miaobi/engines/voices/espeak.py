"""espeak-ng in a process of its own: words in, IPA out.

espeak-ng is GPL-3. It comes with the extra `espeak`, is loaded only here, in a program
of its own (`python -m miaobi.engines.voices.espeak`), and what passes between the two
are lines of JSON: a text goes in, its phonemes come out.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, cast

from miaobi.core.errors import MiaobiError, MissingPart
from miaobi.core.language import say

SYNCHRONOUS = 2
UTF8 = 1
IPA = 2


class Espeak:
    """A running espeak-ng. Safe to use from any thread.

    Args:
        voice: espeak's name of a language, as in "en-us".
        model: What needs it, for the error where it is not installed.

    Raises MissingPart where the extra is not installed.
    """

    def __init__(self, voice: str, model: str) -> None:
        if find_spec("espeakng_loader") is None:
            raise MissingPart(
                say(
                    f"{model} reads by espeak-ng (GPL-3), which is not installed.",
                    f"{model} 需要 espeak-ng（GPL-3）注音，但尚未安装。",
                ),
                'pip install "miaobi[espeak]"',
            )
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "miaobi.engines.voices.espeak", voice],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    def __call__(self, text: str) -> str:
        """Return the phonemes of a text without marks."""
        with self._lock:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps(text) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        if not line:
            raise MiaobiError(
                say("The process of espeak-ng has ended.", "espeak-ng 进程已退出。"),
                say("Open the model again.", "请重新打开模型。"),
            )
        return cast(str, json.loads(line))

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def _library(voice: str) -> Callable[[str], str]:
    """Load espeak-ng; return what turns a text into phonemes."""
    import espeakng_loader

    library: Any = ctypes.CDLL(espeakng_loader.get_library_path())
    data = espeakng_loader.get_data_path().encode()
    if library.espeak_Initialize(SYNCHRONOUS, 0, data, 0) < 0:
        sys.exit(f"espeak-ng cannot read {data.decode()}")
    if library.espeak_SetVoiceByName(voice.encode()) != 0:
        sys.exit(f"espeak-ng has no voice {voice}")
    to_phonemes = library.espeak_TextToPhonemes
    to_phonemes.restype = ctypes.c_char_p
    to_phonemes.argtypes = [
        ctypes.POINTER(ctypes.c_void_p),
        ctypes.c_int,
        ctypes.c_int,
    ]

    def phonemes(text: str) -> str:
        buffer = ctypes.create_string_buffer(text.encode())
        position = ctypes.c_void_p(ctypes.addressof(buffer))
        clauses = list[str]()
        while position.value:
            clauses.append(to_phonemes(ctypes.byref(position), UTF8, IPA).decode())
        return " ".join(clauses)

    return phonemes


def main() -> None:
    """Answer each line of stdin, a text as JSON, with its phonemes."""
    phonemes = _library(sys.argv[1])
    for line in sys.stdin:
        print(json.dumps(phonemes(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
