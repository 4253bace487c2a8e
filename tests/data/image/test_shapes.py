"""Any picture, brought to any size in any of the three ways, has that size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from miaobi.data.image.shapes import fitted

SIDE = st.integers(2, 90)


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@given(width=SIDE, height=SIDE, across=SIDE, down=SIDE)
@example(width=53, height=37, across=32, down=32)
@settings(max_examples=60)
def test_fits(fit: str, width: int, height: int, across: int, down: int) -> None:
    picture = Image.fromarray(
        np.full((height, width, 3), (10, 200, 30), dtype=np.uint8)
    )
    pixels = fitted(picture, down, across, fit)  # type: ignore[arg-type]
    assert pixels.shape == (3, down, across)
    inside = pixels.reshape(3, -1).T
    assert (inside == (10, 200, 30)).all(1).any()
    if fit != "pad":
        assert (inside == (10, 200, 30)).all()
