"""Transformers' own detectors: a fixed number of queries, each of which may find a box.

They keep their set criterion, which averages within a batch; with accumulation, the
loss is a mean of means.
"""

from __future__ import annotations

import torch
from torch import Tensor

from miaobi.nn.objective import Batch
from miaobi.tune.tasks.detection.detector import (
    MAX_DETECTIONS,
    Detections,
    Detector,
    detections_of,
)


class QueryDetector(Detector):
    """DETR, YOLOS, RT-DETR, D-FINE and their kind."""

    def losses(self, batch: Batch) -> Tensor:
        """Return the loss of each image, [B].

        In training the batch goes through at once, and each image has the mean;
        otherwise each image goes through by itself.
        """
        pixels = batch["input"]
        targets = _targets(batch)
        if self.training:
            mean: Tensor = self.net(pixel_values=pixels, labels=targets).loss
            return mean.expand(len(pixels))
        losses = [
            self.net(pixel_values=image[None], labels=[target]).loss
            for image, target in zip(pixels, targets, strict=True)
        ]
        return torch.stack(losses)

    def detect(self, batch: Batch) -> list[Detections]:
        """Return the best boxes of each image.

        Models with a label for "nothing" choose one label for each query (DETR); the
        others score every label by itself (RT-DETR).
        """
        output = self.net(pixel_values=batch["input"])
        logits = output.logits.float()
        if logits.shape[2] > len(self.labels):
            probabilities = logits.softmax(2)[..., :-1]
            best = probabilities.max(2, keepdim=True).values
            probabilities = torch.where(probabilities == best, probabilities, 0.0)
        else:
            probabilities = logits.sigmoid()
        label_count = probabilities.shape[2]
        count = min(MAX_DETECTIONS, probabilities[0].numel())
        scores, indices = probabilities.flatten(1).topk(count)
        queries = indices // label_count
        corners = _corners(output.pred_boxes.float())
        corners = corners.gather(1, queries[..., None].expand(-1, -1, 4))
        return detections_of(corners.clamp(0, 1), indices % label_count, scores)


def _targets(batch: Batch) -> list[dict[str, Tensor]]:
    """Return the boxes of each image as Transformers takes them: centre and size."""
    corners = batch["boxes"]
    centres = (corners[:, :2] + corners[:, 2:]) / 2
    boxes = torch.cat([centres, corners[:, 2:] - corners[:, :2]], 1)
    targets = list[dict[str, Tensor]]()
    for index in range(len(batch["input"])):
        own = batch["owner"] == index
        targets.append({"class_labels": batch["label"][own], "boxes": boxes[own]})
    return targets


def _corners(boxes: Tensor) -> Tensor:
    """Return corners [..., 4] of boxes [..., 4]: centre and size."""
    centres = boxes[..., :2]
    half = boxes[..., 2:] / 2
    return torch.cat([centres - half, centres + half], -1)
