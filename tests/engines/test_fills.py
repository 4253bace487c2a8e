"""Ranked fills of a small bert that learned the alphabet, through the front: names,
several masks, and every prompt that it cannot fill.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.contracts.test_reading_families import Hidden
from tests.engines.small import small_bundle

from miaobi.core import bundle
from miaobi.core.bundle import Manifest
from miaobi.core.errors import BadInput, ContextExceeded, Unsupported
from miaobi.data.text import tokenizer
from miaobi.data.text.masked import ROLES, SPECIALS
from miaobi.engines.load import load
from miaobi.families import bert
from miaobi.nn import fills
from miaobi.train import loop
from miaobi.train.config import TrainConfig


@pytest.fixture(scope="module")
def objective() -> bert.MaskedLanguageModel:
    toy = Hidden()
    torch.manual_seed(0)
    built = bert.build(bert.Config(num_layers=2, hidden_size=64), toy.spec)
    settings = TrainConfig(max_steps=200, batch_size=48, learning_rate=4e-3, warmup=0.1)
    loop.run(loop.start(built, settings), toy, [])
    return built.eval()


@pytest.fixture(scope="module")
def model(objective: bert.MaskedLanguageModel, tmp_path_factory):
    def save(draft: Path) -> None:
        bert.save(objective, draft)
        tokenizer.with_specials(
            tokenizer.characters(dict.fromkeys("abcdefghijklmnopqrs", 1), 1),
            SPECIALS,
            ROLES,
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        ).save(draft)

    folder = tmp_path_factory.mktemp("fills") / "bundle"
    with load(str(bundle.write(folder, Manifest("bert", "text"), save))) as opened:
        yield opened


def test_the_likeliest_comes_first(model) -> None:
    [answer] = model.generate("bc[MASK]efg")
    lines = str(answer).splitlines()
    assert len(lines) == 5
    assert lines[0].startswith("bcdefg  ")
    shares = [float(line.split("  ")[1].removesuffix(" %")) for line in lines]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 50
    assert sum(shares) <= 100.5


def test_each_filling_has_one_line(model) -> None:
    lines = str(model.generate("bc[MASK]\nfg")[0]).split("\n")
    assert len(lines) == 5
    assert all("⏎" in line and line.endswith(" %") for line in lines)


def test_top_k_says_how_many(model) -> None:
    assert len(str(model.generate("bc[MASK]efg", top_k=2)[0]).splitlines()) == 2


def test_several_masks_are_filled_together(model) -> None:
    [answer] = model.generate("b[MASK]de[MASK]g", top_k=3)
    assert str(answer).splitlines()[0].startswith("bcdefg  ")


def test_probabilities_of_several_masks_multiply(
    objective: bert.MaskedLanguageModel,
) -> None:
    """Wide enough, the search is the whole table of two masks."""
    net, spec = objective.net, objective.net.spec
    b, c = (Hidden.tokenizer.encode([letter])[0] for letter in "bc")
    ids = [spec.cls_id, b, spec.mask_id, spec.mask_id, c, spec.sep_id]
    vocabulary = spec.vocab_size
    found = fills.ranked(net, ids, spec.mask_id, vocabulary, [])
    with torch.no_grad():
        first = net(torch.tensor([ids]))[0, 2].log_softmax(-1)
        filled = torch.tensor([ids]).repeat(vocabulary, 1)
        filled[:, 2] = torch.arange(vocabulary)
        second = net(filled)[:, 3].log_softmax(-1)
    table = (first[:, None] + second).flatten()
    best = table.topk(5)
    assert [f.log_probability for f in found[:5]] == pytest.approx(
        best.values.tolist(), abs=1e-4
    )
    assert found[0].fills == list(divmod(int(best.indices[0]), vocabulary))


@pytest.mark.parametrize("prompt", ["", "abc", "[mask]"])
def test_without_a_mask(model, prompt: str) -> None:
    with pytest.raises(BadInput, match="no \\[MASK\\]"):
        model.generate(prompt)


def test_too_long(model) -> None:
    with pytest.raises(ContextExceeded, match="18 tokens"):
        model.generate("a" * 15 + "[MASK]")


def test_settings_that_it_has_no_use_for(model) -> None:
    with pytest.raises(Unsupported, match="temperature"):
        model.generate("a[MASK]", temperature=0.5)
    with pytest.raises(Unsupported, match="messages"):
        model.generate([{"role": "user", "content": "a[MASK]"}])


def test_a_mask_is_letters_to_any_other_model(tmp_path: Path) -> None:
    with load(str(small_bundle(tmp_path / "gpt"))) as opened:
        ids = opened.engine.tokenize(opened.request("[MASK]", raw=True))
        assert opened.engine.detokenize(ids) == "[MASK]"
        assert len(ids) == 6
