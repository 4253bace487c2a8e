"""What turns pictures into the points that distances are measured between. Every figure
names the one it was measured with.

efficientnet-lite0     the starter pack, our default; "EffNet-Lite0@112" looks at small pictures at 112 pixels
PATH.onnx              the user's own, run by OpenVINO: input float32 [N, 3, H, W], RGB in [0, 1], output [N, D]
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from miaobi.core.errors import BadInput, MissingPart, NotFound
from miaobi.core.files import home, write_beside
from miaobi.core.language import say

DEFAULT = "efficientnet-lite0"
BATCH = 32
SIDE = 299
"""For models whose input size is free: Inception's."""

Told = Callable[[float], None]


@dataclass(frozen=True, eq=False)
class Extractor:
    name: str
    features: Callable[[np.ndarray, Told], np.ndarray]
    """(uint8 [N, H, W, C], told the share that is done) -> float32 [N, D]."""
    identity: str = ""
    """Tells its weights from any other's of that name."""

    def kept(self, pixels: np.ndarray, told: Told) -> np.ndarray:
        """Features of pictures that will be asked about again; kept on disk by what the
        pictures and the extractor are.
        """
        digest = hashlib.sha256(f"{self.name} {self.identity} {pixels.shape}".encode())
        digest.update(np.ascontiguousarray(pixels))
        target = home() / "evaluate" / f"{digest.hexdigest()[:32]}.npy"
        if not target.exists():
            found = self.features(pixels, told)
            with write_beside(target) as draft, draft.open("wb") as file:
                np.save(file, found, allow_pickle=False)
        return np.load(target, allow_pickle=False)


def open_extractor(choice: str, height: int, width: int) -> Extractor:
    """The extractor of that name or file, for pictures of this size. Raises NotFound,
    BadInput or MissingPart.
    """
    if choice == DEFAULT:
        from miaobi.models import efficientnet

        side = efficientnet.side_for(height, width)
        name = "EffNet-Lite0" + ("" if side == efficientnet.SIDE else f"@{side}")
        return Extractor(
            name,
            lambda pixels, told: efficientnet.features(pixels, side, told),
            efficientnet.identity(),
        )
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
    model, side = _opened(path)
    return Extractor(
        f"{path.name} ({digest[:8]})", partial(_run, model, side, path), digest
    )


def _opened(path: Path) -> tuple[Any, tuple[int, int]]:
    """The compiled model and the height and width it takes."""
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
    try:
        model = openvino.Core().read_model(str(path))
    except RuntimeError as error:
        raise BadInput(
            say(
                f"{path} is not an ONNX model that OpenVINO reads: {str(error).strip().splitlines()[-1]}",
                f"OpenVINO 无法读取 ONNX 模型 {path}：{str(error).strip().splitlines()[-1]}",
            ),
            say("Export it again as ONNX.", "请重新导出为 ONNX。"),
        ) from None
    shape = model.inputs[0].partial_shape
    if (
        len(model.inputs) != 1
        or shape.rank.is_dynamic
        or len(shape) != 4
        or (shape[1].is_static and shape[1].get_length() != 3)
    ):
        raise BadInput(
            say(
                f"{path} takes "
                f"{[str(item.partial_shape) for item in model.inputs]}, not "
                "one batch of pictures [N, 3, H, W].",
                f"{path} 的输入是 {[str(item.partial_shape) for item in model.inputs]}，而不是一批图片 [N, 3, H, W]。",
            ),
            say(
                "Export it with that input: float32, RGB in [0, 1].",
                "请以该输入导出：float32，RGB，取值 [0, 1]。",
            ),
        )
    high, wide = (
        SIDE if item.is_dynamic else item.get_length() for item in (shape[2], shape[3])
    )
    model.reshape([-1, 3, high, wide])
    # Half precision, which OpenVINO would choose on some processors, moves distances
    # between near neighbours.
    return openvino.Core().compile_model(
        model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    ), (high, wide)


def _run(
    model: Any, side: tuple[int, int], path: Path, pixels: np.ndarray, told: Told
) -> np.ndarray:
    import torch
    from torch.nn import functional as F

    found = list[np.ndarray]()
    for at in range(0, len(pixels), BATCH):
        x = torch.tensor(pixels[at : at + BATCH]).permute(0, 3, 1, 2).float()
        if tuple(x.shape[2:]) != side:
            x = F.interpolate(
                x, side, mode="bicubic", antialias=True, align_corners=False
            ).clamp(0, 255)
        found.append(np.array(model(x.expand(-1, 3, -1, -1).div(255).numpy())[0]))
        told(min(1.0, (at + BATCH) / len(pixels)))
    features = np.concatenate(found)
    features = (
        features.reshape(features.shape[:2])
        if features.ndim == 4 and features.shape[2:] == (1, 1)
        else features
    )
    if features.ndim != 2:
        raise BadInput(
            say(
                f"{path} gives {list(features.shape)}, not one row of features for each picture [N, D].",
                f"{path} 的输出是 {list(features.shape)}，而不是每张图片一行特征 [N, D]。",
            ),
            say("Export it up to its pooled features.", "请导出到池化后的特征为止。"),
        )
    return features.astype(np.float32)
