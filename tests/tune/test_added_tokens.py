"""Tokens that are added to a base: their rows, what learns them, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.tune import encoders
from tests.tune.bases import base
from tests.tune.tuned import moved
from transformers import AutoModelForCausalLM

import miaobi
from miaobi.core.errors import BadInput, MiaobiError, Unsupported
from miaobi.data.text import sample
from miaobi.models.added_tokens import grow, with_tokens
from miaobi.models.base import Base
from miaobi.models.tuned import open_tuned
from miaobi.models.weights import find
from miaobi.nn.objective import Batch, prepared
from miaobi.train.config import TrainConfig
from miaobi.train.optimizers import optimizers_for
from miaobi.tune import methods
from miaobi.tune.config import TuneConfig
from miaobi.tune.learner import Example, Learner
from miaobi.tune.saved import learner_of
from miaobi.tune.tasks import tasks
from miaobi.verbs.export import export
from miaobi.verbs.finetune import Tuned, again, finetune, plan

NOTE = "<|note|>"
MARK = "<note>"
"""A message of a chat cannot spell what looks like a control token."""
PROMPTS = [f"note {number}: " for number in range(4)]
QUICK = {
    "train.batch_size": 8,
    "train.learning_rate": 0.01,
    "train.trackers": [],
    "train.patience": 0,
    "head.max_new_tokens": 4,
    "report.forgetting": False,
    "data.validation": 0.05,
    "data.test": 0.05,
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("kind", ["llama", "gpt2", "t5", "bart"])
def test_new_rows_are_the_mean_and_the_base_stays(kind: str, tmp_path: Path) -> None:
    """A llama's output layer is a table of its own, a gpt2's is that of its inputs."""
    origin = base(tmp_path / kind, kind)
    before = files(origin.folder)
    grown = with_tokens(origin, [NOTE, "饕餮"], ["<|end|>"])
    assert files(origin.folder) == before
    assert grown.identity == origin.identity
    count = len(origin.tokenizer)
    assert grown.added_ids == [count, count + 1, count + 2]
    tokenizer = grown.tokenizer
    assert tokenizer("a饕餮<|end|>").input_ids[-2:] == [count + 1, count + 2]
    assert tokenizer.decode([count + 2, count], skip_special_tokens=True) == NOTE
    old = load_file(origin.folder / "model.safetensors")
    new = load_file(grown.folder / "model.safetensors")
    tables = [name for name in old if new[name].shape != old[name].shape]
    assert len(tables) == {"llama": 2, "gpt2": 1, "t5": 1, "bart": 2}[kind]
    for name in tables:
        if name == "final_logits_bias":  # of a bart, [1, V]
            continue
        assert torch.equal(new[name][:count], old[name])
        mean = old[name].mean(0, keepdim=True)
        difference = new[name][count:] - mean
        assert difference.abs().max() < 1e-6
    assert with_tokens(origin, [NOTE, "饕餮"], ["<|end|>"]).folder == grown.folder


def test_padding_rows_are_used_first(tmp_path: Path) -> None:
    origin = base(tmp_path / "base")
    count = len(origin.tokenizer)
    net: Any = origin.model(AutoModelForCausalLM)
    net.resize_token_embeddings(count + 8, mean_resizing=False)
    grow(net, count, count + 2)
    table = net.get_input_embeddings().weight
    assert len(table) == count + 8
    assert torch.allclose(table[count + 1], table[:count].mean(0), atol=1e-6)


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """Prompts whose answers begin with the new token."""
    rows = [
        {"prompt": PROMPTS[number % 4], "completion": f"{NOTE}{number % 4}"}
        for number in range(40)
    ]
    path = tmp_path / "notes.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def tuned(origin: Base, notes: Path, method: str, **settings: Any) -> Tuned:
    return finetune(
        {"task": "causal"},
        base=str(origin.folder),
        data=notes,
        method=method,
        name="noter",
        settings={
            **QUICK,
            "add_tokens": [NOTE],
            "train.max_steps": 120,
            **settings,
        },
        runs=notes.parent / "runs",
        quiet=True,
    )


def answers(model: str | Path) -> list[str]:
    written = list[str]()
    with miaobi.load(model, engine="native") as opened:
        for prompt in PROMPTS:
            texts = opened.generate(
                prompt,
                temperature=0,
                max_new_tokens=4,
            )
            written.append(str(texts[0]))
    return written


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_model_learns_to_write_a_new_token(
    method: str, tmp_path: Path, notes: Path
) -> None:
    """Saved, opened, served, merged and as a GGUF it gives the same greedy answers."""
    pytest.importorskip("xllamacpp")
    origin = base(tmp_path / "base")
    done = tuned(origin, notes, method)
    learner: Any = learner_of(open_tuned(find(done.model)))
    written = [learner.answer({"prompt": prompt}) for prompt in PROMPTS]
    assert all(answer.startswith(NOTE) for answer in written)
    assert answers(done.model) == written
    merge = method == "lora"
    folder = export(done.model, to="transformers", merge=merge).path
    assert answers(folder) == written
    exported = export(done.model, to="gguf", merge=merge)
    assert exported.parity is not None
    with miaobi.load(exported.path, engine="llamacpp") as opened:
        first = opened.generate(
            PROMPTS[0],
            temperature=0,
            max_new_tokens=1,
        )
    assert str(first[0]) == NOTE


def test_the_preview_counts_the_examples_with_each_new_token(
    tmp_path: Path, notes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    origin = base(tmp_path / "base")
    settings = {
        **QUICK,
        "train.max_steps": 1,
        "add_tokens": [NOTE, "[absent]"],
        "data.validation": 0,
        "data.test": 0,
    }
    plan(
        {"task": "causal"},
        base=str(origin.folder),
        data=notes,
        settings=settings,
        runs=tmp_path / "runs",
    )
    count = len(PROMPTS)  # the others are copies
    shown = capsys.readouterr().err
    assert f"{NOTE} ({count}), [absent] (none, so it is not learned)" in shown


@pytest.mark.slow
def test_a_real_model_learns_new_tokens_in_forty_steps(
    smollm2: Path, tmp_path: Path
) -> None:
    """At the rate that is derived where none is given."""
    lines = sample.files()["notes.jsonl"].splitlines(keepends=True)
    data = tmp_path / "notes.jsonl"
    data.write_text("".join(lines[:-16]), encoding="utf-8")
    quick = {key: value for key, value in QUICK.items() if "train" not in key}
    done = finetune(
        {"task": "chat"},
        base="smollm2",
        data=data,
        name="sorter",
        settings={
            **quick,
            "add_tokens": ["<todo>", "<note>"],
            "train.max_steps": 40,
            "train.trackers": [],
        },
        runs=tmp_path / "runs",
        quiet=True,
    )
    learner: Any = learner_of(open_tuned(find(done.model)))
    right = 0
    for note in map(json.loads, lines[-16:]):
        turns = [{"role": "user", "content": note["prompt"]}]
        mark = note["completion"].split()[0]
        right += learner.answer({"messages": turns}).startswith(mark)
    assert right >= 15


def test_new_rows_move_ten_times_as_far_as_their_layer(tmp_path: Path) -> None:
    """Adam's first step moves an entry by its learning rate."""
    one, _, features = learner_with_tokens("causal", tmp_path / "base")
    methods.apply(one, TuneConfig("lora", lora_rank=2, layer_decay=0.5))
    (phase,) = one.phases()
    config = TrainConfig(learning_rate=1e-3, weight_decay=0)
    before = {name: value.detach().clone() for name, value in moving(one)}
    one.loss(batch_of(one, features)).total.backward()  # type: ignore[no-untyped-call]
    for optimizer in optimizers_for(phase, config):
        optimizer.step()
    furthest = {
        name: (value.detach() - before[name]).abs().max().item()
        for name, value in moving(one)
    }
    adapter = {number: 1e-3 * 0.5 ** (2 - number) for number in (0, 1)}
    expected = {
        "lm_head.token_adapter.trainable_tokens_delta": 1e-3 * 10,
        "embed_tokens.token_adapter.trainable_tokens_delta": 1e-3 * 10 * 0.5**3,
        "layers.0.self_attn.q_proj.lora_B": adapter[0],
        "layers.1.self_attn.q_proj.lora_B": adapter[1],
    }
    for ending, distance in expected.items():
        (name,) = (name for name in furthest if f".{ending}." in name)
        assert furthest[name] == pytest.approx(distance, rel=1e-3)


def moving(learner: Learner) -> list[tuple[str, torch.nn.Parameter]]:
    return [
        (name, parameter)
        for name, parameter in learner.net.named_parameters()
        if parameter.requires_grad
    ]


def adapter_of(model: Tuned) -> dict[str, torch.Tensor]:
    folder = open_tuned(find(model.model)).folder
    return load_file(folder / "adapter_model.safetensors")


def test_it_is_tuned_again_with_the_same_tokens(tmp_path: Path, notes: Path) -> None:
    done = tuned(base(tmp_path / "base"), notes, "lora", **{"train.max_steps": 4})
    further = again(
        done.model,
        settings={"data": str(notes), "train.max_steps": 4},
        runs=tmp_path / "runs",
        quiet=True,
    )
    assert isinstance(further, Tuned)
    opened = open_tuned(find(further.model))
    assert opened.base.added_ids == [len(opened.base.tokenizer) - 1]
    rows = adapter_of(further)
    before = adapter_of(done)
    names = [name for name in rows if name.endswith("trainable_tokens_delta")]
    assert len(names) == 2  # inputs and outputs
    assert not any(torch.equal(rows[name], before[name]) for name in names)
    with pytest.raises(BadInput, match="more"):
        again(
            done.model,
            settings={"data": str(notes), "add_tokens": [NOTE, "<|more|>"]},
            runs=tmp_path / "runs",
            quiet=True,
        )
    with pytest.raises(Unsupported, match="adds tokens") as caught:
        export(done.model, to="gguf")
    assert "--merge" in caught.value.remedy


def example(name: str, record: Mapping[str, Any]) -> Example:
    task = tasks.get(name)
    columns = task.columns(record, task.Config())
    return Example(columns, "1", task.question(columns))


CHAT = [
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": f"{MARK} hi"},
]
TASKS: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "causal": ("llama", [{"text": f"a {NOTE} b"}]),
    "chat": ("chats", [{"messages": CHAT}]),
    "preference": ("chats", [{"prompt": "a", "chosen": MARK, "rejected": "no"}]),
    "seq2seq": ("llama", [{"source": NOTE, "target": "a"}]),
    "text-classification": (
        "bert",
        [{"text": f"{NOTE} room", "label": "a"}, {"text": "bad", "label": "b"}],
    ),
    "token-classification": (
        "bert",
        [{"text": f"Ada {NOTE}", "entities": [{"start": 0, "end": 3, "label": "a"}]}],
    ),
    "embedding": (
        "bert",
        [
            {"text": f"{NOTE} room", "positive": "nice food"},
            {"text": "bad staff", "positive": "bad"},
        ],
    ),
    "extractive-questions": (
        "bert",
        [{"question": NOTE, "context": f"Ada {NOTE} .", "answer": "Ada"}],
    ),
}


def learner_with_tokens(name: str, folder: Path) -> tuple[Learner, Learner, Any]:
    """Two learners of a base with a new token, and encoded examples."""
    kind, records = TASKS[name]
    token = NOTE
    if kind == "bert":
        origin = encoders.base(folder, kind)
    elif kind == "chats":
        origin = base(folder, chats=True)
        token = MARK
    else:
        origin = base(folder, kind)
    grown = with_tokens(origin, [token], [])
    task = tasks.get(name)
    rows = [example(name, record) for record in records]
    spec = task.survey(rows, task.Config())
    one, other = (task.learner(grown, spec, task.Config()) for _ in range(2))
    one.added_ids = grown.added_ids
    return one, other, [one.encode(row.columns, 64) for row in rows]


SETTINGS: list[dict[str, Any]] = [
    {"method": "lora", "quantise": "int8"},
    {"method": "rslora"},
    {"method": "dora"},
    {"method": "adalora"},
    {"method": "full"},
    {"method": "frozen", "freeze_layers": 1, "freeze_embeddings": False},
]


def rows_of(learner: Learner) -> list[torch.Tensor]:
    """The new rows of all tables, as they act."""
    net: Any = learner.net
    tables = [net.get_input_embeddings(), net.get_output_embeddings()]
    ids = list(learner.added_ids)
    rows = list[torch.Tensor]()
    for table in filter(None, tables):
        weight = table.weight.detach()
        rows.append(weight[ids])
    return rows


def check_round_trip(name: str, config: TuneConfig, folder: Path) -> None:
    """The new rows get gradients; saved and opened, the model is as it was."""
    one, other, features = learner_with_tokens(name, folder / "base")
    methods.apply(one, config)
    loss = one.loss(batch_of(one, features)).total
    loss.backward()  # type: ignore[no-untyped-call]
    net: Any = one.net
    table = net.get_input_embeddings()
    gradients = [parameter.grad for parameter in table.parameters()]
    moving = [gradient for gradient in gradients if gradient is not None]
    assert moving
    assert any(bool(gradient.any()) for gradient in moving)
    before = rows_of(one)
    moved(one.net, 1, 0.1)
    assert not any(map(torch.equal, before, rows_of(one)))
    methods.save(one, config, folder)
    methods.restore(other, config, folder)
    one.eval()
    other.eval()
    losses = list[torch.Tensor]()
    with torch.no_grad():
        for learner in (one, other):
            losses.append(learner.loss(batch_of(learner, features)).total)
    assert torch.equal(*losses)


@pytest.mark.parametrize("name", TASKS)
def test_every_task_saves_the_new_rows_with_its_adapter(
    name: str, tmp_path: Path
) -> None:
    config = TuneConfig("lora", lora_rank=2, add_tokens=[NOTE])
    check_round_trip(name, config, tmp_path)


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda item: item["method"])
def test_every_method_that_moves_rows_saves_them(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    config = TuneConfig(lora_rank=2, add_tokens=[NOTE], **settings)
    check_round_trip("causal", config, tmp_path)


def batch_of(learner: Learner, features: Any) -> Batch:
    return prepared(learner, learner.collate(features))


def test_a_base_learns_a_template_whose_marks_it_lacked(tmp_path: Path) -> None:
    """The end of a turn ends an answer, in the learner and where it is served."""
    origin = encoders.base(tmp_path / "base", "llama")
    answer = {"role": "assistant", "content": MARK}
    rows = [{"messages": [CHAT[0], answer]} for _ in range(20)]
    data = tmp_path / "chats.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = finetune(
        {"task": "chat"},
        base=str(origin.folder),
        data=data,
        method="lora",
        name="chatter",
        settings={
            **QUICK,
            "data.max_length": 64,
            "head.template": "chatml",
            "tune.add_tokens": [MARK],
            "tune.add_special_tokens": ["<|im_start|>", "<|im_end|>"],
            "train.max_steps": 60,
            "train.learning_rate": 0.02,
        },
        runs=tmp_path / "runs",
        quiet=True,
    )
    with miaobi.load(done.model, engine="native") as opened:
        texts = opened.generate(
            "hello",
            temperature=0,
            max_new_tokens=8,
        )
    assert str(texts[0]).strip() == MARK
    assert texts[0].finish == "stop"


@pytest.mark.parametrize("method", ["ia3", "prompt", "bottleneck", "frozen"])
def test_methods_that_leave_the_rows_alone_are_refused(
    method: Any, tmp_path: Path
) -> None:
    one, _, _ = learner_with_tokens("causal", tmp_path / "base")
    config = TuneConfig(method)
    with pytest.raises(MiaobiError, match="not be learned") as caught:
        methods.apply(one, config)
    assert "lora" in caught.value.remedy


def test_tokens_that_cannot_be_added_are_named(tmp_path: Path) -> None:
    origin = base(tmp_path / "base")
    with pytest.raises(BadInput, match="</s>"):
        with_tokens(origin, ["</s>"], [])
    with pytest.raises(BadInput, match="' x'"):
        TuneConfig(add_tokens=[" x"])
    with pytest.raises(BadInput, match="twice"):
        TuneConfig(add_tokens=["twice"], add_special_tokens=["twice"])
    config = origin.folder / "config.json"
    config.write_text(json.dumps({**origin.config, "architectures": None}))
    with pytest.raises(Unsupported, match="no architecture"):
        with_tokens(Base(origin.weights, origin.folder), ["unheard"], [])
    chats = with_tokens(base(tmp_path / "chats", chats=True), [NOTE], [])
    with pytest.raises(BadInput, match="control tokens") as caught:
        tasks.get("chat").learner(chats, {}, tasks.get("chat").Config())
    assert "<note>" in caught.value.remedy
