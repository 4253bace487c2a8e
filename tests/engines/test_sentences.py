"""Models of sentences in the native engine: each answer begins with a draw of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.engines.sentences import sentence_bundle, trained

from miaobi.core.engine import Weights
from miaobi.core.errors import Unsupported
from miaobi.engines.load import open_engine
from miaobi.engines.model import Model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    path = sentence_bundle(tmp_path_factory.mktemp("sentences") / "bundle")
    weights = Weights("bundle", str(path), "sentences", family="text_vae")
    with Model(weights, "native", open_engine(weights, "native", 4, {})) as opened:
        yield opened


def test_answers_are_draws_of_their_seeds(model: Model) -> None:
    together = model.generate("", n=6, seed=3, temperature=0, max_new_tokens=24)
    alone = [
        model.generate("", seed=3 + number, temperature=0, max_new_tokens=24)[0]
        for number in range(6)
    ]
    texts = [str(text) for text in together]
    assert texts == [str(text) for text in alone]
    assert len(set(texts)) > 1, "greedy, so only the draws differ"
    net = trained().net
    [ids] = net.decode(net.draw([3]))
    assert texts[0] == model.tokenizer.detokenize(ids)


def test_a_prompt_is_the_beginning_of_the_sentence(model: Model) -> None:
    [text] = model.generate("she ", seed=1, temperature=0, max_new_tokens=12)
    assert str(text)


def test_beams_share_one_draw(model: Model) -> None:
    first, second = model.generate("", n=2, num_beams=4, seed=5, max_new_tokens=24)
    assert str(first) != str(second)


def test_texts_are_bounded_and_not_scored(model: Model) -> None:
    assert not model.engine.abilities.score
    with pytest.raises(Unsupported):
        model.score("she came")
