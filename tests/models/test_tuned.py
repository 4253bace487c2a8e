"""A tuned model finds its base by the base's weights, and says so when it cannot."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.engines.small import small_bundle, small_gguf
from tests.tune.tuned import tuned

from miaobi.core.errors import BadInput, Damaged, NotFound, Unsupported
from miaobi.core.store import Store
from miaobi.data.text.tokenizer import QWEN2
from miaobi.models import converted
from miaobi.models.base import open_base
from miaobi.models.tuned import open_adapter, open_tuned
from miaobi.models.weights import find


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return small_bundle(tmp_path / "poet", chat=True)


def test_the_base_opens_from_its_folder(base: Path, tmp_path: Path) -> None:
    opened = open_tuned(find(str(tuned(tmp_path / "helpdesk", base))))
    assert opened.base.folder == base
    assert opened.base.identity == opened.manifest.data["base"]["hash"]
    assert opened.writes
    assert opened.adapter["peft_type"] == "LORA"
    assert opened.config["architectures"] == ["LlamaForCausalLM"]


def test_the_base_opens_from_the_store_after_it_moved(
    base: Path, tmp_path: Path
) -> None:
    Store().add(base, "poet")
    folder = tuned(tmp_path / "helpdesk", "poet")
    Store().add(base, "other")
    shutil.rmtree(Store().resolve("poet").path)
    with pytest.raises(NotFound, match="poet@1.*not here"):
        _ = open_tuned(find(str(folder))).base
    shutil.copytree(base, Store().root / "poet" / "1")
    opened = open_tuned(find(str(folder)))
    assert opened.base.folder == Store().resolve("poet").path


def test_a_whole_model_needs_no_base(base: Path, tmp_path: Path) -> None:
    folder = tuned(tmp_path / "whole", base, method="full")
    shutil.rmtree(base)
    opened = open_tuned(find(str(folder)))
    assert not opened.adapter
    assert opened.writes


def test_other_weights_under_the_same_name_are_refused_with_both_hashes(
    base: Path, tmp_path: Path
) -> None:
    folder = tuned(tmp_path / "helpdesk", base)
    tuned_on = open_base(str(base)).identity
    change_weights(base)
    present = open_base(str(base)).identity
    with pytest.raises(BadInput) as caught:
        _ = open_tuned(find(str(folder))).base
    message = str(caught.value)
    assert tuned_on[:16] in message
    assert present[:16] in message
    assert "tune again" in caught.value.remedy
    with pytest.raises(BadInput, match=tuned_on[:16]):
        open_adapter(str(folder), open_base(str(base)))


def change_weights(base: Path) -> None:
    file = base / "model.safetensors"
    weights = {
        name: value + torch.full_like(value, 1e-3)
        for name, value in load_file(file).items()
    }
    save_file(weights, file, metadata={"format": "pt"})


def test_what_was_not_tuned_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"not tuned here.*gpt"):
        open_tuned(find(str(base)))
    whole = tuned(tmp_path / "whole", base, method="full")
    with pytest.raises(Unsupported, match="whole weights"):
        open_adapter(str(whole), open_base(str(base)))


def test_an_adapter_without_its_weights_is_damaged(base: Path, tmp_path: Path) -> None:
    folder = tuned(tmp_path / "helpdesk", base)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(Damaged, match="adapter_model.safetensors"):
        _ = open_tuned(find(str(folder))).adapter


def test_a_gguf_base_has_its_own_pre_tokenizer(tmp_path: Path) -> None:
    """Transformers rebuilds all byte-level tokenizers as GPT-2's; what is tuned on that
    base would have no GGUF of its own.
    """
    base = open_base(str(small_gguf(tmp_path)))
    tokenizer = json.loads(base.tokenizer.backend_tokenizer.to_str())
    split, byte_level = tokenizer["pre_tokenizer"]["pretokenizers"]
    assert split["pattern"] == {"Regex": QWEN2}
    assert not byte_level["use_regex"]
    weights = find(str(tuned(tmp_path / "helpdesk", tmp_path / "small.gguf")))
    assert open_tuned(weights).base.folder == base.folder
    assert converted.gguf_of(weights).exists()
