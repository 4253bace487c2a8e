"""A tuned model finds its base by the base's weights, and says so when it cannot."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from tests.engines.small import small_bundle, small_gguf
from tests.tune.tuned import tuned

from miaobi.core.errors import BadInput, Damaged, NotFound, Unsupported
from miaobi.core.store import Store
from miaobi.models.base import open_base
from miaobi.models.tuned import open_adapter, open_tuned
from miaobi.models.weights import find


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return small_bundle(tmp_path / "poet", chat=True)


def test_the_base_is_found_where_it_lay(base: Path, tmp_path: Path) -> None:
    opened = open_tuned(find(str(tuned(tmp_path / "helpdesk", base))))
    assert (
        opened.base.folder == base
        and opened.base.identity == opened.manifest.data["base"]["hash"]
    )
    assert (
        opened.writes
        and opened.adapter["peft_type"] == "LORA"
        and opened.config["architectures"] == ["LlamaForCausalLM"]
    )


def test_the_base_is_found_in_the_store_when_it_moved(
    base: Path, tmp_path: Path
) -> None:
    Store().add(base, "poet")
    made = tuned(tmp_path / "helpdesk", "poet")
    Store().add(base, "other")
    shutil.rmtree(Store().resolve("poet").path)
    with pytest.raises(NotFound, match="poet@1.*not here"):
        _ = open_tuned(find(str(made))).base
    shutil.copytree(base, Store().root / "poet" / "1")
    assert open_tuned(find(str(made))).base.folder == Store().resolve("poet").path


def test_a_whole_model_needs_no_base(base: Path, tmp_path: Path) -> None:
    made = tuned(tmp_path / "whole", base, method="full")
    shutil.rmtree(base)
    opened = open_tuned(find(str(made)))
    assert not opened.adapter and opened.writes


def test_other_weights_under_the_same_name_are_refused_with_both_hashes(
    base: Path, tmp_path: Path
) -> None:
    made = tuned(tmp_path / "helpdesk", base)
    expected = open_base(str(base)).identity
    from safetensors.torch import load_file, save_file

    found = load_file(base / "model.safetensors")
    save_file(
        {name: value + torch.full_like(value, 1e-3) for name, value in found.items()},
        base / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(BadInput) as caught:
        _ = open_tuned(find(str(made))).base
    assert expected[:16] in str(caught.value) and open_base(str(base)).identity[
        :16
    ] in str(caught.value)
    assert "tune again" in caught.value.remedy
    with pytest.raises(BadInput, match=expected[:16]):
        open_adapter(str(made), open_base(str(base)))


def test_what_was_not_tuned_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"not tuned here.*gpt"):
        open_tuned(find(str(base)))
    with pytest.raises(Unsupported, match="whole weights"):
        open_adapter(
            str(tuned(tmp_path / "whole", base, method="full")), open_base(str(base))
        )


def test_an_adapter_without_its_weights_is_damaged(base: Path, tmp_path: Path) -> None:
    made = tuned(tmp_path / "helpdesk", base)
    (made / "adapter_model.safetensors").unlink()
    with pytest.raises(Damaged, match="adapter_model.safetensors"):
        _ = open_tuned(find(str(made))).adapter


def test_a_gguf_base_cuts_words_by_its_own_rule(tmp_path: Path) -> None:
    """Transformers rebuilds all byte-level tokenizers as GPT-2's; what is tuned on that
    base would have no GGUF of its own.
    """
    import json

    from miaobi.models import converted
    from miaobi.models.convert.tokenizer import QWEN2

    base = open_base(str(small_gguf(tmp_path)))
    steps = json.loads(base.tokenizer.backend_tokenizer.to_str())["pre_tokenizer"][
        "pretokenizers"
    ]
    assert steps[0]["pattern"] == {"Regex": QWEN2} and not steps[1]["use_regex"]
    made = find(str(tuned(tmp_path / "helpdesk", tmp_path / "small.gguf")))
    assert (
        open_tuned(made).base.folder == base.folder and converted.gguf_of(made).exists()
    )
