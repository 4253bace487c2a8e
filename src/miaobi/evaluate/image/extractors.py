"""Feature extractors: what turns images into the points that distances are measured
between. Every score names its extractor.

efficientnet-lite0     the starter pack, our default; "EffNet-Lite0@112" scales small images to 112 pixels
PATH.onnx              the user's own, run by OpenVINO: input float32 [N, 3, H, W], RGB in [0, 1], output [N, D]
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from miaobi.core.errors import BadInput, MissingPart, NotFound
from miaobi.core.files import home, write_beside
from miaobi.core.language import say

DEFAULT = "efficientnet-lite0"
BATCH = 32
FREE_SIDE = 299
"""For models whose input size is free: Inception's."""

Progress = Callable[[float], None]
"""progress(completed share)."""


@dataclass(frozen=True, eq=False)
class Extractor:
    """A feature extractor with its name."""

    name: str
    features: Callable[[np.ndarray, Progress], np.ndarray]
    """(uint8 [N, H, W, C], progress) -> float32 [N, D]."""
    identity: str = ""
    """Distinguishes its weights from any others of that name."""

    def cached_features(self, pixels: np.ndarray, progress: Progress) -> np.ndarray:
        """Return features of images that later evaluations need again.

        They are stored on disk by the images and the extractor.
        """
        digest = hashlib.sha256(f"{self.name} {self.identity} {pixels.shape}".encode())
        digest.update(np.ascontiguousarray(pixels).data)
        path = home() / "evaluate" / f"{digest.hexdigest()[:32]}.npy"
        if not path.exists():
            features = self.features(pixels, progress)
            with write_beside(path) as draft, draft.open("wb") as file:
                np.save(file, features, allow_pickle=False)
        stored: np.ndarray = np.load(path, allow_pickle=False)
        return stored


def open_extractor(choice: str, height: int, width: int) -> Extractor:
    """Return the extractor of a name or file, for images of this size.

    Raises:
        NotFound: There is no such file.
        BadInput: The choice is no extractor, or the file is no fitting ONNX model.
        MissingPart: The file needs OpenVINO, which is not installed.
    """
    if choice == DEFAULT:
        return _efficientnet(height, width)
    path = Path(choice).expanduser()
    if path.suffix.lower() != ".onnx":
        raise BadInput(
            say(f"{choice!r} is no extractor.", f"{choice!r} 不是可用的特征提取器。"),
            say(
                f"Use {DEFAULT}, or a path that ends in .onnx.",
                f"请使用 {DEFAULT}，或以 .onnx 结尾的路径。",
            ),
        )
    if not path.is_file():
        raise NotFound(
            say(f"There is no file {path}.", f"找不到文件 {path}。"),
            say("Check the path given to --extractor.", "请检查 --extractor 的路径。"),
        )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    model = OnnxModel(path)
    return Extractor(f"{path.name} ({digest[:8]})", model.features, digest)


def _efficientnet(height: int, width: int) -> Extractor:
    from miaobi.models import efficientnet

    side = efficientnet.side_for(height, width)
    suffix = "" if side == efficientnet.SIDE else f"@{side}"

    def features(pixels: np.ndarray, progress: Progress) -> np.ndarray:
        return efficientnet.features(pixels, side, progress)

    return Extractor(f"EffNet-Lite0{suffix}", features, efficientnet.identity())


class OnnxModel:
    """A user's feature extractor, run by OpenVINO."""

    def __init__(self, path: Path) -> None:
        self.path = path
        openvino = _import_openvino()
        model = _read_onnx(openvino, path)
        _check_input(model, path)
        shape = model.inputs[0].partial_shape
        self.size = (_side(shape[2]), _side(shape[3]))
        model.reshape([-1, 3, *self.size])
        # Half precision, which OpenVINO would choose on some processors, moves
        # distances between near neighbours.
        self.compiled = openvino.Core().compile_model(
            model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
        )

    def features(self, pixels: np.ndarray, progress: Progress) -> np.ndarray:
        """Return float32 [N, D] of images uint8 [N, H, W, C], grey or RGB."""
        batches = list[np.ndarray]()
        for start in range(0, len(pixels), BATCH):
            inputs = self._inputs(pixels[start : start + BATCH])
            batches.append(np.array(self.compiled(inputs)[0]))
            progress(min(1.0, (start + BATCH) / len(pixels)))
        features = np.concatenate(batches)
        if features.ndim == 4 and features.shape[2:] == (1, 1):
            features = features.reshape(features.shape[:2])
        if features.ndim != 2:
            raise BadInput(
                say(
                    f"{self.path} gives {list(features.shape)}, not one row of features for each picture [N, D].",
                    f"{self.path} 的输出是 {list(features.shape)}，而不是每张图片一行特征 [N, D]。",
                ),
                say(
                    "Export it up to its pooled features.", "请导出到池化后的特征为止。"
                ),
            )
        return features.astype(np.float32)

    def _inputs(self, pixels: np.ndarray) -> np.ndarray:
        """Return float32 [B, 3, H, W] in [0, 1] of images uint8 [B, H, W, C]."""
        import torch
        from torch.nn import functional as F

        x = torch.tensor(pixels).permute(0, 3, 1, 2).float()
        if tuple(x.shape[2:]) != self.size:
            x = F.interpolate(
                x, self.size, mode="bicubic", antialias=True, align_corners=False
            ).clamp(0, 255)
        inputs: np.ndarray = x.expand(-1, 3, -1, -1).div(255).numpy()
        return inputs


def _import_openvino() -> Any:
    try:
        import openvino
    except ImportError:
        raise MissingPart(
            say(
                "An extractor of one's own is run by OpenVINO, which is not installed.",
                "自备的特征提取器由 OpenVINO 运行，但尚未安装。",
            ),
            'pip install "miaobi[engines]"',
        ) from None
    return openvino


def _read_onnx(openvino: Any, path: Path) -> Any:
    try:
        return openvino.Core().read_model(str(path))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise BadInput(
            say(
                f"{path} is not an ONNX model that OpenVINO reads: {reason}",
                f"OpenVINO 无法读取 ONNX 模型 {path}：{reason}",
            ),
            say("Export it again as ONNX.", "请重新导出为 ONNX。"),
        ) from None


def _check_input(model: Any, path: Path) -> None:
    """Raise BadInput unless the model takes one batch of images [N, 3, H, W]."""
    if len(model.inputs) == 1 and _is_image_batch(model.inputs[0].partial_shape):
        return
    shapes = [str(item.partial_shape) for item in model.inputs]
    raise BadInput(
        say(
            f"{path} takes {shapes}, not one batch of pictures [N, 3, H, W].",
            f"{path} 的输入是 {shapes}，而不是一批图片 [N, 3, H, W]。",
        ),
        say(
            "Export it with that input: float32, RGB in [0, 1].",
            "请以该输入导出：float32，RGB，取值 [0, 1]。",
        ),
    )


def _is_image_batch(shape: Any) -> bool:
    if shape.rank.is_dynamic or len(shape) != 4:
        return False
    channels = shape[1]
    return bool(channels.is_dynamic or channels.get_length() == 3)


def _side(dimension: Any) -> int:
    return FREE_SIDE if dimension.is_dynamic else int(dimension.get_length())
