"""What the packaged picture models share: a network through OpenVINO, and the picture
it is given.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from miaobi.core.engine import Abilities, accepted
from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.core.machine import physical_cores
from miaobi.core.requests import ImageRequest, Request


class Network:
    """A network of one output, on the CPU, in float32 where the processor would rather
    round. Threads may share it.
    """

    def __init__(self, source: Any, threads: int | None = None) -> None:
        """`source`: an openvino.Model, or the path of an ONNX file."""
        import openvino

        core = openvino.Core()
        self._network = core.compile_model(
            core.read_model(source) if isinstance(source, Path) else source,
            "CPU",
            {
                "INFERENCE_NUM_THREADS": threads or physical_cores(),
                "INFERENCE_PRECISION_HINT": "f32",
            },
        )

    def __call__(self, *inputs: np.ndarray) -> np.ndarray:
        # A request for each call: one alone cannot run twice at a time.
        request = self._network.create_infer_request()
        request.infer(dict(enumerate(inputs)))
        return np.array(request.get_output_tensor(0).data)


def image_of(
    request: Request, abilities: Abilities, engine: str
) -> tuple[ImageRequest, np.ndarray]:
    """The request, checked, and the pixels of its image, uint8 [H, W, 3] (see
    data.picture_files for what becomes of alpha).

    Raises Unsupported for what the engine cannot honour, BadInput when there is no image.
    """
    from miaobi.data.image.files import read_picture

    asked = accepted(request, ImageRequest, abilities, engine)
    if asked.image is None:
        raise BadInput(
            say(
                f"The {engine} engine works on a picture, and there is no image.",
                f"{engine} 引擎需要一张图片，但没有给出 image。",
            ),
            say("Give one: --image photo.png", "请给出图片：--image photo.png"),
        )
    return asked, read_picture(asked.image)
