"""Objects as people write them down: boxes in pixels, or shares as YOLO's files have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from miaobi.core.language import say
from miaobi.data.text.shapes import Unusable

EXAMPLE = '{"image": "photos/a.jpg", "objects": [{"label": "cat", "box": [left, top, width, height]}]}'


def objects_of(
    record: Mapping[str, Any], width: int, height: int
) -> list[Mapping[str, Any]]:
    """Return the labels and boxes of a record, for an image of this size in pixels.

    Raises:
        Unusable: There are no objects, or one of them has no label or no sound box.
    """
    objects = record.get("objects")
    if isinstance(objects, Mapping):
        objects = _rows_of(objects)
    if not isinstance(objects, list):
        raise Unusable(say("no objects.", "缺少 objects。"), EXAMPLE)
    return [_object(item, width, height) for item in objects]


def _rows_of(objects: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the rows of columns of lists, which is how `datasets` stores objects."""
    labels = objects.get("category", objects.get("label")) or ()
    boxes = objects.get("bbox", objects.get("box")) or ()
    return [{"label": label, "box": box} for label, box in zip(labels, boxes)]


def _object(item: Mapping[str, Any], width: int, height: int) -> Mapping[str, Any]:
    """Return the label and the box in pixels, cut to the image."""
    try:
        label = str(item["label"])
        box = [float(value) for value in item.get("shares") or item["box"]]
        if "shares" in item:
            box = _from_shares(box, width, height)
        left, top, box_width, box_height = box
    except (KeyError, TypeError, ValueError):
        raise Unusable(
            say(f"an object is {item!r:.80}.", f"某个 objects 项为 {item!r:.80}。"),
            EXAMPLE,
        ) from None
    right = min(left + box_width, width)
    bottom = min(top + box_height, height)
    left = max(left, 0.0)
    top = max(top, 0.0)
    if right <= left or bottom <= top:
        raise Unusable(
            say(
                f"the box {box} of {label!r} lies outside the picture of {width} × {height} pixels, or has no area.",
                f"{label!r} 的框 {box} 在 {width} × {height} 的图片之外，或面积为零。",
            ),
            say(
                "Boxes are [left, top, width, height] in pixels.",
                "框的格式为 [左, 上, 宽, 高]，单位像素。",
            ),
        )
    cut_box = (left, top, right - left, bottom - top)
    return {"label": label, "box": [round(value, 2) for value in cut_box]}


def _from_shares(shares: list[float], width: int, height: int) -> list[float]:
    """Return a box in pixels of YOLO's shares: centre x, centre y, width, height."""
    x, y, box_width, box_height = shares
    return [
        (x - box_width / 2) * width,
        (y - box_height / 2) * height,
        box_width * width,
        box_height * height,
    ]
