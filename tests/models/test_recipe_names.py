"""A model that is not there, under the name of a recipe."""

from __future__ import annotations

import pytest

from miaobi.core.errors import NotFound
from miaobi.core.recipes import recipes
from miaobi.models.weights import command_of_recipe, find


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("digits-vae", "miaobi train recipes/image/digits_vae.yaml"),
        ("poet_gpt@2", "miaobi train recipes/text/poet_gpt.yaml"),
        ("poet", "miaobi train recipes/text/poet_gpt.yaml"),
        ("clothing", "miaobi finetune recipes/tune/picture_classes.yaml"),
        ("review-sentiment", "miaobi finetune recipes/tune/review_sentiment.yaml"),
    ],
)
def test_the_error_names_the_command_that_makes_it(name: str, command: str) -> None:
    with pytest.raises(NotFound, match="it is a recipe") as missing:
        find(name)
    assert missing.value.remedy == command


def test_every_recipe_has_its_command() -> None:
    for key in recipes.built_in():
        for file in recipes.get(key).files():
            assert (
                command_of_recipe(file.stem)
                == f"miaobi train recipes/{key}/{file.name}"
            )
    assert command_of_recipe("no-such-recipe") == ""
