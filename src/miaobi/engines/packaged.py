"""What the packaged image models share: a network through OpenVINO, and the image that
a request brings.

Beside the engines that use it (styletransfer, upscaler, moderation), since it is none
itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from miaobi.core.engine import Abilities, accepted
from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.core.machine import physical_cores
from miaobi.core.requests import ImageRequest, Request

if TYPE_CHECKING:
    import openvino


class Network:
    """A network of one output, on the CPU. Threads may share it.

    It computes in float32 also where the processor would rather round.

    Args:
        source: An OpenVINO model, or the path of an ONNX file.
        threads: Of the processor; its physical cores unless given.
    """

    def __init__(
        self, source: openvino.Model | Path, threads: int | None = None
    ) -> None:
        import openvino

        core = openvino.Core()
        model = core.read_model(source) if isinstance(source, Path) else source
        settings = {
            "INFERENCE_NUM_THREADS": threads or physical_cores(),
            "INFERENCE_PRECISION_HINT": "f32",
        }
        self._network = core.compile_model(model, "CPU", settings)

    def __call__(self, *inputs: np.ndarray) -> np.ndarray:
        # An inference request for each call: one alone cannot run twice at a time.
        inference = self._network.create_infer_request()
        inference.infer(dict(enumerate(inputs)))
        return np.array(inference.get_output_tensor(0).data)


def accepted_with_image(
    request: Request, abilities: Abilities, engine: str
) -> tuple[ImageRequest, np.ndarray]:
    """Return the request, checked, and the pixels of its image, uint8 [H, W, 3].

    See data.image.files for what becomes of alpha. Raises Unsupported for what the
    engine does not offer, BadInput when there is no image.
    """
    from miaobi.data.image.files import read_picture

    image_request = accepted(request, ImageRequest, abilities, engine)
    if image_request.image is None:
        raise BadInput(
            say(
                f"The {engine} engine works on a picture, and there is no image.",
                f"{engine} 引擎需要一张图片，但没有给出 image。",
            ),
            say("Give one: --image photo.png", "请给出图片：--image photo.png"),
        )
    return image_request, read_picture(image_request.image)
