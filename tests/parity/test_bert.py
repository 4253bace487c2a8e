"""The bert family computes what Transformers' BertForPreTraining computes, forwards and
backwards, and its tokenizer puts texts between the same tokens.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import torch
from torch import nn

from miaobi.data.text import tokenizer
from miaobi.data.text.masked import ROLES, SPECIALS, MaskedSpec
from miaobi.families import bert

SPEC = MaskedSpec(
    vocab_size=97,
    context_length=32,
    pad_id=93,
    cls_id=94,
    sep_id=95,
    mask_id=96,
    tokenizer="test",
    sentences="sop",
)
LENGTHS = torch.tensor([20, 7, 13])


def scattered(objective: bert.MaskedLanguageModel) -> bert.MaskedLanguageModel:
    """Weights away from where they begin."""
    torch.manual_seed(1)
    for parameter in objective.parameters():
        nn.init.normal_(parameter, std=0.1)
    return objective.eval()


def test_logits_and_gradients_equal_bert(tmp_path: Path) -> None:
    from transformers import BertForPreTraining

    objective = scattered(bert.build(bert.Config(num_layers=2, hidden_size=64), SPEC))
    bert.save(objective, tmp_path)
    theirs, loading = BertForPreTraining.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(loading.values())
    theirs.eval()
    ids = torch.randint(0, 93, (3, 20))
    types = torch.randint(0, 2, (3, 20))
    present = torch.arange(20) < LENGTHS[:, None]
    expected = theirs(ids, attention_mask=present.long(), token_type_ids=types)
    hidden = objective.net.encode(ids, LENGTHS, types)
    words = objective.net.predict(hidden)
    order = objective.net.predict_order(hidden)
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(
        words[present], expected.prediction_logits[present], **close
    )
    torch.testing.assert_close(order, expected.seq_relationship_logits, **close)
    (words[present].square().mean() + order.square().mean()).backward()
    total = expected.prediction_logits[present].square().mean()
    (total + expected.seq_relationship_logits.square().mean()).backward()
    gradients = {name: value.grad for name, value in theirs.named_parameters()}
    for name, parameter in objective.net.named_parameters():
        their_grad = gradients[bert.name_in_transformers(name)]
        torch.testing.assert_close(parameter.grad, their_grad, rtol=1e-3, atol=1e-5)


def test_loads_what_it_saved(tmp_path: Path) -> None:
    objective = scattered(bert.build(bert.Config(num_layers=1, hidden_size=32), SPEC))
    bert.save(objective, tmp_path)
    loaded = bert.load(tmp_path)
    assert loaded.config == objective.net.config
    assert loaded.spec == SPEC
    ids = torch.randint(0, 93, (2, 32))
    torch.testing.assert_close(loaded(ids), objective.net(ids), rtol=0, atol=0)


def test_the_loss_is_that_of_transformers(tmp_path: Path) -> None:
    """Their mean over hidden tokens and mean over rows, times the divisor of ours."""
    from transformers import BertForPreTraining

    objective = scattered(bert.build(bert.Config(num_layers=1, hidden_size=32), SPEC))
    bert.save(objective, tmp_path)
    theirs = BertForPreTraining.from_pretrained(tmp_path).eval()
    ids = torch.randint(0, 93, (3, 20))
    targets = torch.where(torch.rand(3, 20) < 0.3, ids, -100)
    batch = {
        "ids": ids,
        "targets": targets,
        "lengths": torch.full((3,), 20),
        "types": torch.zeros_like(ids),
        "order": torch.tensor([0, 1, 1]),
    }
    loss = objective.loss(batch)
    expected = theirs(ids, labels=targets, next_sentence_label=batch["order"]).loss
    assert loss.count == int((targets != -100).sum())
    torch.testing.assert_close(loss.total / loss.count, expected)


def test_transformers_puts_texts_between_the_same_tokens(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    plain = tokenizer.characters(Counter("白日依山尽"), 1)
    ours = tokenizer.with_specials(
        plain,
        SPECIALS,
        ROLES,
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
    )
    ours.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    pad, cls, sep, mask = range(plain.vocab_size, plain.vocab_size + 4)
    text = plain.encode(["白日"])
    assert theirs("白日[MASK]").input_ids == [cls, *text, mask, sep]
    assert (theirs.mask_token_id, theirs.pad_token_id) == (mask, pad)
    two = theirs("白", "日", return_token_type_ids=True)
    assert two.input_ids == [cls, text[0], sep, text[1], sep]
    assert two.token_type_ids == [0, 0, 0, 1, 1]
