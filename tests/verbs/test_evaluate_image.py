"""`miaobi evaluate` for models that paint: every family, on small pictures drawn here."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.evaluate.onnx_file import write_onnx

from miaobi.core import bundle
from miaobi.core.errors import BadInput
from miaobi.core.store import Store
from miaobi.data.image.prepared import Config, Pictures, prepare
from miaobi.families import families
from miaobi.verbs.evaluate import Evaluation, evaluate

QUALITY = {
    "frechet",
    "frechet_extrapolated",
    "kernel_distance",
    "precision",
    "recall",
    "density",
    "coverage",
    "picture_diversity",
}
CLASSES = {"class_accuracy"}
COPYING = {
    "nearest_features",
    "closer_features",
    "nearest_pixels",
    "closer_pixels",
    "exact_copies",
}
BOUNDS, REBUILT = {"nats", "bits_per_value", "bound_gap"}, {"mse", "psnr", "ssim"}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture(scope="module")
def extractor(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three numbers a picture: enough to tell the pictures below apart, and quick."""
    pytest.importorskip("openvino")
    return str(write_onnx(tmp_path_factory.mktemp("extractor") / "means.onnx", side=16))


def drawn(
    folder: Path,
    count: int,
    seed: int,
    classes: tuple[str, ...] = ("left", "right"),
    pairs: bool = False,
) -> Path:
    """Coloured blocks on the left or the right; for pairs, the outlines they are coloured after."""
    draw = np.random.default_rng(seed)
    for number in range(count):
        side = classes[number % 2] if classes else ""
        pixels = draw.integers(180, 256, (16, 16, 3)).astype(np.uint8)
        top, left = draw.integers(0, 9), draw.integers(0, 4) + (8 if number % 2 else 0)
        pixels[top : top + 6, left : left + 5] = draw.integers(0, 256, 3)
        for kind, content in (
            (
                ("source", pixels.mean(2, keepdims=True).astype(np.uint8).repeat(3, 2)),
                ("target", pixels),
            )
            if pairs
            else ((side, pixels),)
        ):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(content).save(folder / kind / f"{number:03d}.png")
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Pictures:
    return prepare(
        Config(
            path=str(drawn(tmp_path / "pictures", 160, 0)),
            image_size=16,
            channels=3,
            test=0.25,
        ),
        progress=False,
    )


@pytest.fixture
def stored(data: Pictures, tmp_path: Path) -> Callable[..., str]:
    """Put an untrained model of a family into the store, with the curve of a run."""

    def make(
        family: str, name: str = "painter", pictures: Pictures = data, **settings: Any
    ) -> str:
        module = families.get(family)
        torch.manual_seed(0)
        objective = module.build(
            module.Config(**{"width": 8, "patch": 2, **settings}), pictures.spec
        )

        def save(folder: Path) -> None:
            module.save(objective, folder)
            pictures.save(folder)
            (folder / "log.jsonl").write_text(
                "".join(
                    json.dumps(
                        {
                            "step": step,
                            "critic/loss": 1 / step,
                            "generator/loss": step / 9,
                            "seconds": step,
                        }
                    )
                    + "\n"
                    for step in range(1, 9)
                )
            )

        manifest = bundle.Manifest(
            family,
            "image",
            {"model": settings},
            {"folder": str(pictures.folder), "fingerprint": pictures.fingerprint},
        )
        return str(
            Store().add(bundle.write(tmp_path / f"{name}-bundle", manifest, save), name)
        )

    return make


def names(evaluation: Evaluation, model: int = 0) -> set[str]:
    return {score.name for score in evaluation.judged[model].scores}


def page_images(page: Path) -> list[Image.Image]:
    return [
        Image.open(io.BytesIO(base64.b64decode(item)))
        for item in re.findall(
            r'src="data:image/png;base64,([^"]+)"', page.read_text(encoding="utf-8")
        )
    ]


def test_an_autoencoder_has_every_score(stored: Callable[..., str]) -> None:
    """With the packaged extractor, named as what it is."""
    stored("vae", conditional=True, likelihood="bernoulli")
    evaluation = evaluate("painter", samples=60)
    assert (
        names(evaluation) == QUALITY | CLASSES | COPYING | BOUNDS | REBUILT
        and not evaluation.judged[0].missing
    )
    assert (
        evaluation.scores[0].name == "frechet"
        and "EffNet-Lite0@112" in evaluation.scores[0].detail
        and "held-out pictures: " in evaluation.scores[0].detail
    )
    html = re.sub(r"base64,[^\"]+", "", evaluation.page.read_text(encoding="utf-8"))
    assert "AI-generated" in html and "bernoulli" in html and "FID" not in html
    assert "critic/loss" in html and "generator/loss" in html
    pictures = page_images(evaluation.page)
    assert len(pictures) == 4  # samples, nearest, nearest at random, reconstructions
    assert json.loads(pictures[0].info["miaobi"])["model"] == "painter@1"
    report = json.loads(
        (evaluation.page.parent / "report.json").read_text(encoding="utf-8")
    )
    assert report["judged"][0]["documents"] == evaluation.judged[0].documents == 40
    assert "Fréchet distance" in str(evaluation)


def test_the_same_seed_gives_the_same_scores(
    stored: Callable[..., str], extractor: str
) -> None:
    stored("vae", conditional=True)
    first, again, other = (
        evaluate("painter", samples=40, extractor=extractor, seed=seed)
        for seed in (3, 3, 4)
    )
    assert first.scores == again.scores != other.scores


def test_a_gan_has_no_bound_and_says_so(
    stored: Callable[..., str], extractor: str
) -> None:
    stored("gan", generator="style", conditional=True)
    evaluation = evaluate("painter", samples=40, extractor=extractor)
    assert names(evaluation) == QUALITY | CLASSES | COPYING and {
        item.metric for item in evaluation.judged[0].missing
    } == {"picture_likelihood", "reconstruction"}
    assert len(page_images(evaluation.page)) == 3 and "does not bound" in str(
        evaluation
    )


def test_a_tokenizer_is_evaluated_by_its_reconstructions(
    stored: Callable[..., str], extractor: str
) -> None:
    stored("vq")
    evaluation = evaluate("painter", extractor=extractor)
    assert names(evaluation) == QUALITY | COPYING | REBUILT
    assert evaluation.scores[
        0
    ].n == 40 and "made of 40 held-out pictures" in evaluation.page.read_text(
        encoding="utf-8"
    )


def test_a_translator_is_evaluated_on_held_out_sources(
    stored: Callable[..., str], extractor: str, tmp_path: Path
) -> None:
    pairs = prepare(
        Config(
            path=str(drawn(tmp_path / "pairs", 160, 1, (), pairs=True)),
            image_size=16,
            channels=3,
            test=0.25,
        ),
        progress=False,
    )
    assert pairs.spec.source_channels
    stored("pix2pix", pictures=pairs)
    evaluation = evaluate("painter", extractor=extractor)
    assert names(
        evaluation
    ) == QUALITY | COPYING | REBUILT and "Translations" in evaluation.page.read_text(
        encoding="utf-8"
    )


def test_two_models_side_by_side(stored: Callable[..., str], extractor: str) -> None:
    stored("vae", conditional=True)
    stored("gan", "rival")
    evaluation = evaluate("painter", against="rival", samples=40, extractor=extractor)
    ours, theirs = evaluation.judged
    assert (ours.model, theirs.model) == (
        "painter@1",
        "rival@1",
    ) and ours.documents == theirs.documents
    assert "(rival@1)" in str(evaluation)
    assert [score.detail for score in ours.scores if score.name == "frechet"] == [
        score.detail for score in theirs.scores if score.name == "frechet"
    ]


def test_pictures_of_ones_own(
    stored: Callable[..., str], extractor: str, tmp_path: Path
) -> None:
    """Larger ones, in the same classes; and some without classes, by which a
    conditional bound cannot be measured.
    """
    stored("vae", conditional=True)
    own = drawn(tmp_path / "own", 40, 5)
    for path in own.rglob("*.png"):
        Image.open(path).resize((40, 33)).save(path)
    evaluation = evaluate("painter", samples=40, extractor=extractor, data=own)
    assert (
        evaluation.judged[0].documents == 40
        and names(evaluation) == QUALITY | CLASSES | COPYING | BOUNDS | REBUILT
    )
    plain = evaluate(
        "painter",
        samples=40,
        extractor=extractor,
        data=drawn(tmp_path / "plain", 40, 6, ()),
    )
    assert names(plain) == QUALITY | CLASSES | COPYING
    assert all("have no classes" in item.why for item in plain.judged[0].missing)


def test_without_the_data_it_says_what_cannot_be_measured(
    stored: Callable[..., str], data: Pictures, extractor: str
) -> None:
    import shutil

    stored("gan")
    stored("vq", "restorer")
    shutil.rmtree(data.folder)
    evaluation = evaluate("painter", samples=40, extractor=extractor)
    assert names(evaluation) == {"picture_diversity"} and "--data" in str(evaluation)
    assert not names(evaluate("restorer", extractor=extractor))


def test_what_cannot_be_compared_is_refused(
    stored: Callable[..., str], extractor: str, tmp_path: Path
) -> None:
    stored("gan")
    pairs = drawn(tmp_path / "pairs", 30, 1, (), pairs=True)
    with pytest.raises(BadInput, match="holds pairs"):
        evaluate("painter", data=pairs, extractor=extractor)
    with pytest.raises(BadInput, match="no extractor"):
        evaluate("painter", extractor="fid")
    with pytest.raises(BadInput, match="samples is 0"):
        evaluate("painter", samples=0)
    big = prepare(
        Config(
            path=str(drawn(tmp_path / "big", 60, 2)),
            image_size=32,
            channels=3,
            test=0.3,
        ),
        progress=False,
    )
    stored("gan", "larger", big)
    with pytest.raises(BadInput, match="no measure fits both"):
        evaluate("painter", against="larger", samples=20, extractor=extractor)
