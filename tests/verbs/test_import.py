"""LLaMA-Factory's and ms-swift's files as recipes: each key is taken, or named with why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from miaobi import cli
from miaobi.core.errors import BadInput, Conflict, NotFound
from miaobi.tune.examples import example_of
from miaobi.verbs.finetune.settings import settle
from miaobi.verbs.importing import Imported, import_recipe

LLAMA_FACTORY: dict[str, Any] = {
    "model_name_or_path": "smollm2",
    "trust_remote_code": True,
    "stage": "sft",
    "do_train": True,
    "finetuning_type": "lora",
    "lora_rank": 8,
    "lora_target": "q_proj,v_proj",
    "dataset": "identity,alpaca_en_demo",
    "template": "llama3",
    "cutoff_len": 2048,
    "max_samples": 1000,
    "preprocessing_num_workers": 16,
    "output_dir": "saves/llama3-8b/lora/Helpdesk_SFT",
    "logging_steps": 10,
    "save_steps": 500,
    "plot_loss": True,
    "report_to": "none",
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 8,
    "learning_rate": 1.0e-4,
    "num_train_epochs": 3.0,
    "lr_scheduler_type": "cosine",
    "warmup_ratio": 0.1,
    "bf16": True,
    "val_size": 0.1,
    "resume_from_checkpoint": None,
    "shift_attn": True,
}
"""examples/train_lora/llama3_lora_sft.yaml, with one key that has no counterpart."""
DATASETS = {
    "identity": {
        "file_name": "identity.json",
        "columns": {"prompt": "ask", "query": "more", "response": "say"},
    },
    "alpaca_en_demo": {"file_name": "alpaca_en_demo.json"},
    "dpo_en_demo": {
        "file_name": "dpo_en_demo.json",
        "ranking": True,
        "formatting": "sharegpt",
        "columns": {
            "messages": "conversations",
            "chosen": "chosen",
            "rejected": "rejected",
        },
    },
    "far": {"hf_hub_url": "somebody/far"},
    "tagged": {
        "file_name": "alpaca_en_demo.json",
        "formatting": "sharegpt",
        "tags": {"role_tag": "speaker", "content_tag": "content"},
    },
}
SWIFT: dict[str, Any] = {
    "model": "smollm2",
    "rlhf_type": "dpo",
    "train_type": "lora",
    "dataset": ["data/dpo_en_demo.json#500"],
    "torch_dtype": "bfloat16",
    "target_modules": "all-linear",
    "max_length": 2048,
    "truncation_strategy": "delete",
    "split_dataset_ratio": 0.05,
    "beta": 0.2,
    "num_train_epochs": 1,
    "learning_rate": 1.0e-4,
    "warmup_steps": 2,
    "per_device_train_batch_size": 2,
    "loss_scale": "default",
    "system": "You are helpful.",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "data"
    data.mkdir()
    own = [{"ask": f"Who {at}?", "more": "", "say": "I am Miaobi."} for at in range(8)]
    alpaca = [{"instruction": f"Say {at}", "output": str(at)} for at in range(12)]
    pairs = [
        {
            "conversations": [{"from": "human", "value": f"Say {at}"}],
            "chosen": {"from": "gpt", "value": str(at)},
            "rejected": {"from": "gpt", "value": "no"},
        }
        for at in range(10)
    ]
    for name, rows in (
        ("identity.json", own),
        ("alpaca_en_demo.json", alpaca),
        ("dpo_en_demo.json", pairs),
        ("dataset_info.json", DATASETS),
    ):
        (data / name).write_text(json.dumps(rows), encoding="utf-8")
    return tmp_path


def imported(path: Path, settings: dict[str, Any], **more: Any) -> Imported:
    path.write_text(yaml.safe_dump({**settings, **more}), encoding="utf-8")
    return import_recipe(path)


def test_llama_factory_becomes_a_recipe_of_the_same_run(folder: Path) -> None:
    done = imported(folder / "sft.yaml", LLAMA_FACTORY)
    recipe = yaml.safe_load(done.recipe.read_text(encoding="utf-8"))
    settled = settle(recipe)
    values = settled.values
    assert settled.task.NAME == "chat"
    assert (values["name"], values["base"]) == ("helpdesk-sft", "smollm2")
    assert (values["tune.method"], values["tune.lora_rank"]) == ("lora", 8)
    assert values["tune.targets"] == r".*\.(q_proj|v_proj)"
    assert values["train.learning_rate"] == 1e-4
    assert (values["train.batch_size"], values["train.microbatches"]) == (1, 8)
    assert values["train.max_steps"] == round(20 * 0.9 * 3 / 8)
    assert values["train.precision"] == "bfloat16"
    assert values["data.columns"] == {
        "instruction": "ask",
        "input": "more",
        "output": "say",
    }
    assert values["data.mix.alpaca_en_demo.path"] == "data/alpaca_en_demo.json"
    assert values["data.mix.alpaca_en_demo.columns"] == {}
    assert values["train.trackers"] == []
    record = json.loads((folder / "data/identity.json").read_text(encoding="utf-8"))[0]
    example = example_of(
        "identity.json:1", record, settled.data.columns, settled.task, settled.head
    )
    contents = [turn["content"] for turn in example.columns["messages"]]
    assert contents == ["Who 0?", "I am Miaobi."]


def test_every_key_is_taken_or_named_with_why_not(folder: Path) -> None:
    for settings, name in ((LLAMA_FACTORY, "sft.yaml"), (SWIFT, "dpo.yaml")):
        done = imported(folder / name, settings)
        assert set(settings) <= set(done.notes)
        shown = str(done)
        assert all(key in shown for key in settings)
    done = imported(folder / "again.yaml", LLAMA_FACTORY)
    assert done.notes["shift_attn"] == "not taken: there is no such setting here"
    assert done.notes["trust_remote_code"] == "not taken: not needed here"
    assert "own chat template" in done.notes["template"]
    assert done.notes["learning_rate"] == "taken as train.learning_rate = 0.0001"


def test_ms_swift_becomes_a_recipe_of_the_same_run(folder: Path) -> None:
    done = imported(folder / "dpo.yaml", SWIFT)
    recipe = yaml.safe_load(done.recipe.read_text(encoding="utf-8"))
    settled = settle(recipe)
    values = settled.values
    assert settled.task.NAME == "preference"
    assert (values["head.loss"], values["head.beta"]) == ("dpo", 0.2)
    assert (values["data.path"], values["data.max_examples"]) == (
        "data/dpo_en_demo.json",
        500,
    )
    assert (values["data.too_long"], values["data.validation"]) == ("drop", 0.05)
    steps = values["train.max_steps"]
    assert steps == round(10 * 0.95 / 2)
    assert values["train.warmup"] == pytest.approx(2 / steps, abs=1e-4)
    assert "into the records" in done.notes["system"]


def test_counts_of_other_data_than_the_first_are_named(folder: Path) -> None:
    names = ["data/dpo_en_demo.json#5", "data/alpaca_en_demo.json#3"]
    held_out = "data/identity.json#2"
    done = imported(folder / "two.yaml", SWIFT, dataset=names, val_dataset=held_out)
    for name in (names[1], held_out):
        assert done.notes[name].startswith("not taken: a count of other data")


def tokens_of(done: Imported) -> tuple[list[str], list[str]]:
    """The recipe's new tokens that texts spell, and those that a template writes."""
    recipe = yaml.safe_load(done.recipe.read_text(encoding="utf-8"))
    tune = settle(recipe).tune
    return tune.add_tokens, tune.add_special_tokens


def test_llama_factorys_new_tokens(folder: Path) -> None:
    """Its special tokens are read in texts, which those of the form <|...|> cannot be."""
    done = imported(
        folder / "sft.yaml",
        LLAMA_FACTORY,
        add_tokens="<todo>, <note>",
        add_special_tokens="<IMG>,<|svg|>",
        resize_vocab=True,
        init_special_tokens="noise_init",
        additional_target="embed_tokens,lm_head",
    )
    assert tokens_of(done) == (["<todo>", "<note>", "<IMG>"], ["<|svg|>"])
    assert "cannot spell" in done.notes["add_special_tokens"]
    assert done.notes["init_special_tokens"].startswith("not taken")
    assert done.notes["resize_vocab"].startswith("taken")
    assert done.notes["additional_target"].startswith("taken for new tokens")
    config = folder / "tokens.yaml"
    config.write_text('"<circle>": "a circle begins"\n"<|svg|>": "a drawing"\n')
    done = imported(
        folder / "pt.yaml",
        LLAMA_FACTORY,
        stage="pt",
        add_special_tokens="<IMG>",
        new_special_tokens_config="tokens.yaml",
    )
    assert tokens_of(done) == (["<circle>", "<|svg|>"], [])
    assert "new_special_tokens_config decides" in done.notes["add_special_tokens"]


def test_ms_swifts_new_tokens(folder: Path) -> None:
    tokens = folder / "examples" / "tokens.txt"
    tokens.parent.mkdir()
    tokens.write_text("<bg>\n\n<|fg|>\n", encoding="utf-8")
    more = {"modules_to_save": ["embed_tokens", "lm_head"]}
    for number, given in enumerate((["<bg>", "<|fg|>"], "examples/tokens.txt")):
        path = folder / f"{number}.yaml"
        done = imported(path, SWIFT, new_special_tokens=given, **more)
        assert tokens_of(done) == (["<bg>"], ["<|fg|>"])
        assert done.notes["modules_to_save"].startswith("taken for new tokens")
    with pytest.raises(NotFound, match="no file absent.txt"):
        imported(folder / "x.yaml", SWIFT, new_special_tokens=["absent.txt"])


def test_a_data_set_alone(folder: Path) -> None:
    file = folder / "data" / "dataset_info.json"
    with pytest.raises(BadInput, match="Which data set"):
        import_recipe(file)
    done = import_recipe(file, dataset="dpo_en_demo")
    recipe = yaml.safe_load(done.recipe.read_text(encoding="utf-8"))
    assert recipe["task"] == "preference"
    assert settle({**recipe, "base": "smollm2"}).data.columns == {}
    with pytest.raises(BadInput, match="has no data set 'dpo'"):
        import_recipe(file, dataset="dpo")
    with pytest.raises(BadInput, match="far is not a file but on a hub"):
        import_recipe(file, dataset="far")
    out = folder / "tagged.yaml"
    tagged = import_recipe(file, dataset="tagged", out=out)
    assert tagged.notes["tagged.tags"] == "not taken: rename speaker in the records"


def test_nothing_is_overwritten_and_strangers_are_refused(folder: Path) -> None:
    path = folder / "sft.yaml"
    imported(path, LLAMA_FACTORY)
    with pytest.raises(Conflict, match=r"sft.recipe.yaml is there already"):
        import_recipe(path)
    path.write_text("learning_rate: 0.1\n", encoding="utf-8")
    with pytest.raises(BadInput, match="names no model"):
        import_recipe(path, out=folder / "x.yaml")


def test_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "sft.yaml").write_text(yaml.safe_dump(LLAMA_FACTORY), encoding="utf-8")
    assert cli.main(["import", "sft.yaml", "--out", "mine.yaml"]) == 0
    assert "miaobi finetune mine.yaml --dry-run" in capsys.readouterr().out
