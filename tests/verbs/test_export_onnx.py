"""`miaobi export --to onnx`: every graph answers in onnxruntime as it does in PyTorch."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.engines.small import small_bundle, small_tokenizer
from tests.engines.test_tuned import NAMES, REVIEWS, tuned_model
from tests.tune.picture_sets import class_folders, examples_of
from tests.tune.tuned import tuned_task
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.models.vit import ViTImageProcessorPil

from miaobi.core import bundle
from miaobi.core.bundle import Manifest
from miaobi.core.errors import Damaged, MissingPart, Unsupported
from miaobi.data.image.prepared import PictureSpec
from miaobi.data.labelled.images import pictures
from miaobi.families import families
from miaobi.models.base import open_base
from miaobi.nn.graphs import Graph
from miaobi.tune.tasks import image_classification
from miaobi.verbs.export import export, onnx

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def picture_bundle(folder: Path, name: str, **config: Any) -> Path:
    """A small untrained model of a picture family, all of whose weights act."""
    torch.manual_seed(0)
    family = families.get(name)
    spec = PictureSpec(1, 12, 12, ("a", "b", "c"), source_channels=2)
    objective = family.build(family.Config(width=8, **config), spec)
    return bundle.write(
        folder, Manifest(name, "image"), lambda draft: family.save(objective, draft)
    )


def run(folder: Path, name: str, **inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(folder / f"{name}.onnx"))
    outputs: list[np.ndarray] = session.run(None, inputs)
    return outputs[0]


@pytest.mark.parametrize(
    ("family", "config", "names"),
    [
        ("vae", {"conditional": True}, {"decoder", "encoder"}),
        pytest.param("gan", {}, {"decoder"}, marks=pytest.mark.slow),
        pytest.param(
            "gan", {"generator": "style"}, {"decoder"}, marks=pytest.mark.slow
        ),
        pytest.param("vq", {}, {"decoder", "encoder"}, marks=pytest.mark.slow),
        pytest.param("pix2pix", {}, {"translator"}, marks=pytest.mark.slow),
    ],
)
def test_pictures_are_the_same_to_the_level(
    family: str, config: dict[str, Any], names: set[str], tmp_path: Path
) -> None:
    path = picture_bundle(tmp_path / "model", family, **config)
    exported = export(str(path), to="onnx")
    description = json.loads((exported.path / "graphs.json").read_text())
    assert {Path(item["file"]).stem for item in description["graphs"]} == names
    net = families.get(family).load(path)
    for graph in onnx.graphs_of(net):
        inputs = {name: value[:1] for name, value in graph.inputs.items()}
        with torch.no_grad():
            expected = graph.function(*inputs.values()).numpy()
        arrays = {name: value.numpy() for name, value in inputs.items()}
        actual = run(exported.path, graph.name, **arrays)
        assert np.abs(expected - actual).max() < 1e-5
        levels = [np.round(127.5 * (values + 1)) for values in (expected, actual)]
        assert np.abs(levels[0] - levels[1]).max() <= 1
    assert "graphs.json" in str(exported)


@pytest.mark.slow
def test_a_language_model_continues_with_the_same_tokens(tmp_path: Path) -> None:
    path = small_bundle(tmp_path / "model", "lstm")
    exported = export(str(path), to="onnx")
    net = families.get("lstm").load(path)
    ids = [*small_tokenizer().encode(["春江"])]
    theirs = list(ids)
    for _ in range(16):
        with torch.no_grad():
            ids.append(int(net(torch.tensor([ids]))[0, -1].argmax()))
        logits = run(exported.path, "language", ids=np.array([theirs]))
        theirs.append(int(logits[0, -1].argmax()))
    assert theirs == ids


PAIRS = [
    {"text": "good room", "positive": "nice food"},
    {"text": "bad room", "positive": "awful staff"},
]


@pytest.mark.parametrize(
    ("task", "records", "name"),
    [
        pytest.param(
            "text-classification", REVIEWS, "classifier", marks=pytest.mark.slow
        ),
        pytest.param("token-classification", NAMES, "tagger", marks=pytest.mark.slow),
        pytest.param("embedding", PAIRS, "encoder", marks=pytest.mark.slow),
    ],
)
def test_what_is_tuned_to_read(
    task: str, records: list[Any], name: str, tmp_path: Path
) -> None:
    """A text that was not seen gets the same logits, whatever stands behind it."""
    folder, learner = tuned_model(tmp_path, task, records)
    exported = export(str(folder), to="onnx")
    assert (exported.path / "tokenizer.json").exists()
    tokenizer: Any = AutoTokenizer.from_pretrained(exported.path)
    ids = np.array([tokenizer("good food in Rome").input_ids])
    mask = np.ones_like(ids)
    actual = run(exported.path, name, ids=ids, mask=mask)
    (graph,) = learner.graphs()  # type: ignore[attr-defined]
    with torch.no_grad():
        expected = graph.function(torch.tensor(ids), torch.tensor(mask)).numpy()
    assert np.abs(expected - actual).max() < 1e-4
    longer = np.pad(ids, ((0, 0), (0, 3)))
    padded = run(exported.path, name, ids=longer, mask=np.pad(mask, ((0, 0), (0, 3))))
    if name == "tagger":
        padded = padded[:, : ids.shape[1]]
    assert np.abs(expected - padded).max() < 1e-4


@pytest.mark.slow
def test_a_picture_classifier(tmp_path: Path) -> None:
    """It takes pixels as they are in a file, 0 to 255."""
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        image_size=32,
        patch_size=8,
    )
    ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    processor = ViTImageProcessorPil(size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path / "vit")
    records = examples_of(
        image_classification,
        pictures,
        class_folders(tmp_path / "colours", 3),
        image_classification.Config(),
    )
    folder, learner = tuned_task(
        tmp_path / "tuned",
        open_base(str(tmp_path / "vit")),
        "image-classification",
        records,
    )
    exported = export(str(folder), to="onnx")
    description = json.loads((exported.path / "graphs.json").read_text())
    image = np.full((32, 32, 3), (200, 30, 30), np.uint8)
    pixels = image.transpose(2, 0, 1)[None].astype(np.float32)
    logits = run(exported.path, "classifier", pixels=pixels)
    best = description["labels"][int(logits[0].argmax())]
    assert best == learner.answer({"image": image})["label"]


def test_what_has_no_graphs_is_refused(tmp_path: Path) -> None:
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=16,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
        )
    ).save_pretrained(tmp_path / "llama")
    with pytest.raises(Unsupported, match="no graphs"):
        export(str(tmp_path / "llama"), to="onnx")


def test_without_onnxruntime_its_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = picture_bundle(tmp_path / "model", "vae")
    monkeypatch.setattr(onnx, "find_spec", lambda name: None)
    with pytest.raises(MissingPart, match="onnxruntime") as caught:
        export(str(path), to="onnx")
    assert "miaobi[onnx]" in str(caught.value.remedy)


def test_a_graph_that_answers_otherwise_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = picture_bundle(tmp_path / "model", "vae")

    def differ(path: Path, graph: Graph) -> None:
        other = replace(graph, function=lambda *inputs: graph.function(*inputs) + 1)
        compared(path, other)

    compared = onnx._compared
    monkeypatch.setattr(onnx, "_compared", differ)
    with pytest.raises(Damaged, match="does not answer"):
        export(str(path), to="onnx")
    assert not list((tmp_path / "exports").iterdir())
