"""Piper's files: a voice is NAME.onnx and NAME.onnx.json."""

from __future__ import annotations

from pathlib import Path

from miaobi.core.engine import Weights
from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.core.requests import SpeechRequest


def weights_of(file: Path, name: str) -> Weights:
    """Return the weights of a voice. Raises BadInput for another ONNX file."""
    config = file.with_name(f"{file.name}.json")
    if not config.exists():
        raise BadInput(
            say(
                f"{file} is no voice of Piper: {config.name} is not beside it.",
                f"{file} 不是 Piper 声音：旁边没有 {config.name}。",
            ),
            say(
                "Put the two files side by side; other ONNX files are not opened here.",
                "请把两个文件放在一起；此处不支持其他 ONNX 文件。",
            ),
        )
    return Weights("piper", str(file), name, modality=SpeechRequest.makes)
