"""Extractors: the packaged one by its name, one's own by its file, features kept between runs."""

from pathlib import Path

import numpy as np
import pytest
from tests.evaluate.image_models import projection
from tests.evaluate.onnx_file import channel_means

from miaobi.core.errors import BadInput, NotFound
from miaobi.evaluate.image.extractors import Extractor, open_extractor


def pictures(side: int = 10, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(
        0, 256, (70, side, side, channels), dtype=np.uint8
    )


def silent(share: float) -> None:
    pass


def test_the_packaged_one_says_at_what_size_it_looks() -> None:
    assert open_extractor("efficientnet-lite0", 28, 28).name == "EffNet-Lite0@112"
    assert open_extractor("efficientnet-lite0", 256, 100).name == "EffNet-Lite0"


def test_ones_own_gets_colours_between_nought_and_one(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    path, told = channel_means(tmp_path / "mine.onnx", side=10), list[float]()
    extractor = open_extractor(str(path), 10, 10)
    found = extractor.features(pictures(), told.append)
    np.testing.assert_allclose(found, pictures().mean((1, 2)) / 255, atol=1e-5)
    assert found.dtype == np.float32 and told[-1] == 1.0
    assert extractor.name.startswith("mine.onnx (") and "FID" not in extractor.name


def test_ones_own_gets_pictures_at_its_size(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    small, free = (
        open_extractor(str(channel_means(tmp_path / f"{side}.onnx", side=side)), 10, 10)
        for side in (4, "side")
    )
    grey = np.full((3, 10, 10, 1), 51, np.uint8)
    for extractor in (small, free):
        np.testing.assert_allclose(
            extractor.features(grey, silent), np.full((3, 3), 0.2), atol=1e-5
        )


def test_another_file_of_the_same_name_is_another_extractor(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    (tmp_path / "a").mkdir()
    one, two = (
        channel_means(tmp_path / "mine.onnx", side=4),
        channel_means(tmp_path / "a" / "mine.onnx", side=8),
    )
    assert open_extractor(str(one), 8, 8).name != open_extractor(str(two), 8, 8).name


def test_what_is_no_extractor_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    with pytest.raises(BadInput, match="no extractor"):
        open_extractor("inception", 28, 28)
    with pytest.raises(NotFound, match="none.onnx"):
        open_extractor(str(tmp_path / "none.onnx"), 28, 28)
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    with pytest.raises(BadInput, match="bad.onnx"):
        open_extractor(str(tmp_path / "bad.onnx"), 28, 28)
    with pytest.raises(BadInput, match="one batch of pictures"):
        open_extractor(
            str(channel_means(tmp_path / "grey.onnx", side=4, channels=1)), 28, 28
        )
    pixels = open_extractor(
        str(channel_means(tmp_path / "pixels.onnx", side=4, flat=False)), 4, 4
    )
    with pytest.raises(BadInput, match="one row of features"):
        pixels.features(pictures(4), silent)


def test_features_are_kept_by_pictures_and_extractor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def features(pixels: np.ndarray, told: object) -> np.ndarray:
        asked.append(len(pixels))
        return projection().features(pixels, silent)

    once, other = (
        Extractor("mine", features),
        Extractor("mine", features, "other weights"),
    )
    first = once.cached_features(pictures(), silent)
    np.testing.assert_array_equal(once.cached_features(pictures(), silent), first)
    assert asked == [70]
    once.cached_features(pictures()[:69], silent)
    other.cached_features(pictures(), silent)
    assert asked == [70, 69, 70]
