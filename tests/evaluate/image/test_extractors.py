"""Extractors: the packaged one by its name, a user's by its file, features cached
between runs.
"""

from pathlib import Path

import numpy as np
import pytest
from tests.evaluate.image_models import projection
from tests.evaluate.onnx_file import write_onnx

from miaobi.core.errors import BadInput, NotFound
from miaobi.evaluate.image.extractors import Extractor, Progress, open_extractor


def images(side: int = 10) -> np.ndarray:
    draw = np.random.default_rng(0)
    return draw.integers(0, 256, (70, side, side, 3), dtype=np.uint8)


def no_progress(share: float) -> None:
    pass


def test_the_packaged_one_names_the_size_it_looks_at() -> None:
    assert open_extractor("efficientnet-lite0", 28, 28).name == "EffNet-Lite0@112"
    assert open_extractor("efficientnet-lite0", 256, 100).name == "EffNet-Lite0"


def test_an_onnx_file_gets_colours_between_nought_and_one(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    path = write_onnx(tmp_path / "mine.onnx", side=10)
    extractor = open_extractor(str(path), 10, 10)
    shares = list[float]()
    features = extractor.features(images(), shares.append)
    expected = images().mean((1, 2)) / 255
    np.testing.assert_allclose(features, expected, atol=1e-5)
    assert features.dtype == np.float32
    assert shares[-1] == 1.0
    assert extractor.name.startswith("mine.onnx (")
    assert "FID" not in extractor.name


@pytest.mark.parametrize("side", [4, "side"])
def test_an_onnx_file_gets_images_at_its_size(tmp_path: Path, side: int | str) -> None:
    pytest.importorskip("openvino")
    path = write_onnx(tmp_path / "mine.onnx", side=side)
    extractor = open_extractor(str(path), 10, 10)
    grey = np.full((3, 10, 10, 1), 51, np.uint8)
    features = extractor.features(grey, no_progress)
    np.testing.assert_allclose(features, np.full((3, 3), 0.2), atol=1e-5)


def test_another_file_of_the_same_name_is_another_extractor(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    (tmp_path / "a").mkdir()
    first = write_onnx(tmp_path / "mine.onnx", side=4)
    second = write_onnx(tmp_path / "a" / "mine.onnx", side=8)
    first_name = open_extractor(str(first), 8, 8).name
    assert first_name != open_extractor(str(second), 8, 8).name


def test_what_is_no_extractor_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    with pytest.raises(BadInput, match="no extractor"):
        open_extractor("inception", 28, 28)
    with pytest.raises(NotFound, match="none.onnx"):
        open_extractor(str(tmp_path / "none.onnx"), 28, 28)
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"not a model")
    with pytest.raises(BadInput, match="bad.onnx"):
        open_extractor(str(bad), 28, 28)
    grey = write_onnx(tmp_path / "grey.onnx", side=4, channels=1)
    with pytest.raises(BadInput, match="one batch of pictures"):
        open_extractor(str(grey), 28, 28)
    unpooled = write_onnx(tmp_path / "unpooled.onnx", side=4, pooled=False)
    extractor = open_extractor(str(unpooled), 4, 4)
    with pytest.raises(BadInput, match="one row of features"):
        extractor.features(images(4), no_progress)


def test_features_are_cached_by_images_and_extractor() -> None:
    counts = list[int]()

    def features(pixels: np.ndarray, progress: Progress) -> np.ndarray:
        counts.append(len(pixels))
        return projection().features(pixels, progress)

    extractor = Extractor("mine", features)
    other = Extractor("mine", features, "other weights")
    first = extractor.cached_features(images(), no_progress)
    second = extractor.cached_features(images(), no_progress)
    np.testing.assert_array_equal(second, first)
    assert counts == [70]
    extractor.cached_features(images()[:69], no_progress)
    other.cached_features(images(), no_progress)
    assert counts == [70, 69, 70]
