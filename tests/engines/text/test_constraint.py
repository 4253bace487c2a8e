"""What llguidance and our grammar hold an answer to: everything they accept validates,
everything else is refused by its place.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import jsonschema
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, WithJsonSchema
from tests.engines.small import small_gguf

from miaobi.core.engine import Abilities, Weights
from miaobi.core.errors import BadInput, MiaobiError, Unsupported
from miaobi.core.requests import TextRequest
from miaobi.engines import auto, engines
from miaobi.engines.load import open_engine
from miaobi.engines.model import Model
from miaobi.engines.native.answers import SampledAnswers, Vocabulary
from miaobi.engines.text import constraint, grammar
from miaobi.engines.text.detokenizer import ByteDetokenizer
from miaobi.engines.text.streaming import TextStream

BYTES = [bytes([byte]) for byte in range(256)]
END = 256
CLOSING = [ord(character) for character in '"]}']
BYTEWISE = constraint.Constraint([*BYTES, b""], [END])
LONGEST = 400


def written(schema: dict[str, Any], seed: int, **controls: Any) -> str | None:
    """What a model of bytes that knows nothing writes under a schema, by the native
    engine's own sampling; None where it does not come to an end.
    """
    request = TextRequest(
        prompt="x", json_schema=schema, seed=seed, max_new_tokens=LONGEST, **controls
    )
    vocabulary = Vocabulary(
        {END},
        lambda stops: TextStream(ByteDetokenizer([*BYTES, b""]), stops),
        lambda token: str(token),
    )
    matchers = BYTEWISE.matchers(schema, 1)
    answers = SampledAnswers(request, [1], LONGEST, vocabulary, matchers)
    generator = torch.Generator().manual_seed(seed)
    text = ""
    for _ in range(LONGEST):
        logits = torch.randn(1, END + 1, generator=generator)
        logits[:, 32:127] += 2  # mostly letters,
        logits[:, CLOSING] += 5  # and soon an end
        (chunk,) = answers.advance(logits).chunks
        text += chunk.text
        if chunk.finish:
            return text if chunk.finish == "stop" else None
    return None


def validate(text: str, schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(schema).validate(json.loads(text))


NAMES = st.sampled_from(["a", "b", "a/b", "价 格", 'quo"te', "$ref", "title"])
SMALL = st.integers(-50, 50)
CONSTANTS = st.sampled_from([None, True, 3, -1.5, "x", "价\n", [1, "a"], {"k": [None]}])


def bounds(low: str, high: str, values: Any) -> Any:
    """A lower bound, an upper one, both or none."""

    def named(pair: Any) -> dict[str, Any]:
        first, second = sorted(pair[:2])
        return {
            key: value
            for key, value, there in ((low, first, pair[2]), (high, second, pair[3]))
            if there
        }

    return st.tuples(values, values, st.booleans(), st.booleans()).map(named)


LEAVES: Any = st.one_of(
    bounds("minimum", "maximum", SMALL).map(lambda more: {"type": "integer", **more}),
    bounds("minimum", "exclusiveMaximum", st.floats(-9, 9).map(lambda x: round(x, 2)))
    .filter(lambda more: len(set(more.values())) == len(more))
    .map(lambda more: {"type": "number", **more}),
    bounds("minLength", "maxLength", st.integers(0, 6)).map(
        lambda more: {"type": "string", **more}
    ),
    st.sampled_from(
        ["^[a-c]{2,4}$", "^x", "y$", "^(?!^[-+.]*$)[+-]?0*\\d*\\.?\\d*$"]
    ).map(lambda pattern: {"type": "string", "pattern": pattern}),
    st.sampled_from(["date", "time", "date-time", "uuid", "ipv4", "email"]).map(
        lambda name: {"type": "string", "format": name}
    ),
    st.sampled_from(["boolean", "null", ["integer", "null"]]).map(
        lambda kind: {"type": kind}
    ),
    st.lists(CONSTANTS, min_size=1, max_size=3).map(lambda values: {"enum": values}),
    CONSTANTS.map(lambda value: {"const": value, "title": "t"}),
    st.just({"$ref": "#/$defs/node"}),
)


def objects(inner: Any) -> Any:
    properties = st.dictionaries(NAMES, inner, max_size=3)

    def required(fields: dict[str, Any]) -> Any:
        names = (
            st.lists(st.sampled_from(list(fields)), unique=True)
            if fields
            else st.just([])
        )
        return names.map(
            lambda chosen: {
                "type": "object",
                "properties": fields,
                "required": chosen,
            }
        )

    return properties.flatmap(required)


def deeper(inner: Any) -> Any:
    return st.one_of(
        objects(inner),
        st.tuples(inner, bounds("minItems", "maxItems", st.integers(0, 3))).map(
            lambda pair: {"type": "array", "items": pair[0], **pair[1]}
        ),
        st.lists(inner, min_size=1, max_size=3).map(
            lambda parts: {
                "type": "array",
                "prefixItems": parts,
                "items": False,
                "minItems": len(parts),
            }
        ),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"anyOf": parts}),
        st.lists(inner, min_size=1, max_size=2).map(lambda parts: {"allOf": parts}),
        st.lists(inner, min_size=1, max_size=2).map(lambda parts: {"oneOf": parts}),
        inner.map(
            lambda value: {
                "type": "object",
                "patternProperties": {"^x_": value},
                "additionalProperties": False,
            }
        ),
        inner.map(lambda value: {"type": "object", "additionalProperties": value}),
        inner.map(
            lambda value: {
                "type": "object",
                "propertyNames": {"enum": ["p", "q"]},
                "additionalProperties": value,
            }
        ),
    )


SCHEMAS = st.recursive(LEAVES, deeper, max_leaves=5).map(
    lambda schema: {
        **schema,
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "v": {"type": "integer"},
                    "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
                },
                "required": ["v", "next"],
            }
        },
    }
)


@given(SCHEMAS, st.integers(0, 2**31))
@settings(max_examples=150)
def test_what_a_model_writes_under_an_accepted_schema_validates(
    schema: dict[str, Any], seed: int
) -> None:
    try:
        constraint.check(schema)
    except (Unsupported, BadInput):
        assume(False)
    text = written(schema, seed)
    if text is not None:
        validate(text, schema)


@pytest.fixture(scope="module")
def llamacpp(smollm2: Path) -> Iterator[Model]:
    weights = Weights("gguf", str(smollm2), "smollm2")
    engine = open_engine(weights, "llamacpp", 1, {"context_length": 512})
    yield Model(weights, "llamacpp", engine)
    engine.close()


@pytest.mark.slow
@given(schema=SCHEMAS, seed=st.integers(0, 2**31))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_so_does_what_llama_cpp_writes(
    llamacpp: Model, schema: dict[str, Any], seed: int
) -> None:
    try:
        llamacpp.engine.abilities.check("json_schema", schema)
    except MiaobiError:
        assume(False)
    (answer,) = llamacpp.generate(
        "春", raw=True, json_schema=schema, seed=seed, max_new_tokens=60
    )
    if answer.finish == "stop":
        validate(answer.text, schema)


DECIMAL = {
    "anyOf": [
        {"type": "number"},
        {"type": "string", "pattern": "^(?!^[-+.]*$)[+-]?0*\\d*\\.?\\d*$"},
    ]
}
"""As pydantic wrote it until 2.13."""


class Order(BaseModel):
    """Most of what pydantic writes into a schema."""

    price: Annotated[Decimal, WithJsonSchema(DECIMAL)]
    pair: tuple[int, str]
    due: datetime.datetime
    counts: dict[Literal["red", "green"], int]
    rating: int = Field(ge=1, le=5)
    code: str = Field(pattern="^[A-Z]{3}$")


def test_pydantic_reads_what_its_own_schema_let_through() -> None:
    texts = [written(Order.model_json_schema(), seed) for seed in range(12)]
    read = [Order.model_validate_json(text) for text in texts if text is not None]
    assert len(read) > 3


def test_a_schema_is_held_against_controls_that_would_ban_all_it_leaves() -> None:
    banned = dict.fromkeys(range(256), -100.0)
    text = written({"const": "yes"}, 1, logit_bias=banned, min_new_tokens=50)
    assert text == '"yes"'


def test_an_object_has_the_properties_that_its_parts_declare_and_no_others() -> None:
    named = {"type": "object", "properties": {"a": {"type": "null"}}, "required": ["a"]}
    aged = {"properties": {"b": {"type": "null"}}, "required": ["b"]}
    schema = {"allOf": [{"$ref": "#/$defs/n"}, aged], "$defs": {"n": named}}
    assert written(schema, 3) == '{"a": null, "b": null}'


@pytest.mark.parametrize(
    ("schema", "where"),
    [
        ({"properties": {"a": {"not": {}}}}, "#/properties/a/not"),
        ({"items": {"type": "array", "uniqueItems": True}}, "#/items/uniqueItems"),
        ({"properties": {"a/b": {"pattern": "(?<=a)b"}}}, "#/properties/a~1b "),
        ({"properties": {"a": {"format": "zip"}}}, "#/properties/a/format"),
        ({"properties": {"a": {"$ref": "#/$defs/none"}}}, "#/properties/a/$ref"),
        ({"properties": {"a": {"$ref": "http://h/x.json"}}}, "#/properties/a/$ref"),
        (
            {"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}},
            "#/$defs/a/anyOf/0/$ref",
        ),
        (
            {"items": {"oneOf": [{"type": "integer"}, {"minimum": 3}]}},
            "#/items ",
        ),
        ({"items": {"anyOf": []}}, "#/items/anyOf"),
        ({"items": {"type": "banana"}}, "#/items "),
        ({"items": 3}, "#/items "),
        ({"properties": {"a": {"minimumm": 3}}}, "#/properties/a/minimumm"),
        ({"propertyNames": {"minLength": 2}}, "#/propertyNames"),
    ],
)
def test_what_cannot_be_enforced_is_refused_by_its_pointer(
    schema: dict[str, Any], where: str
) -> None:
    with pytest.raises((Unsupported, BadInput)) as caught:
        constraint.check(schema)
    assert where in f"{caught.value.problem} "
    assert caught.value.field == "json_schema"


def test_auto_takes_an_engine_that_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = Weights("gguf", str(small_gguf(tmp_path)), "small")
    module = engines.get("openvino")
    abilities = Abilities(module.ABILITIES.controls, checks=module.ABILITIES.checks)
    monkeypatch.setattr(module, "reads", lambda weights: True)
    monkeypatch.setattr(module, "ABILITIES", abilities)
    plain = {"json_schema": {"type": "integer"}}
    bounded = {"json_schema": {"type": "integer", "minimum": 3}}
    many = 32
    assert auto.choose(weights, many, plain) == "openvino"
    assert auto.choose(weights, many, bounded) == "llamacpp"


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "anyOf": [{"minLength": 3}]},
        {"$ref": "#/$defs/a", "maxLength": 3, "$defs": {"a": {"type": "string"}}},
        {"type": "string", "enum": ["a", 1]},
        {"oneOf": [{"type": "integer"}, {"type": "number"}]},
        {"allOf": [{"type": "string"}, {"maxLength": 2}]},
        {"type": "array", "items": {"type": "null"}, "minItems": 3, "maxItems": 2},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
        {"enum": []},
    ],
)
def test_the_grammar_leaves_what_it_would_not_hold(schema: dict[str, Any]) -> None:
    with pytest.raises((Unsupported, BadInput)):
        grammar.of_schema(schema)


def test_the_grammar_takes_alternatives_that_one_property_distinguishes() -> None:
    def option(kind: str) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": {"kind": {"const": kind}},
            "required": ["kind"],
        }

    union = {
        "oneOf": [{"$ref": "#/$defs/a"}, option("b")],
        "discriminator": {"propertyName": "kind"},
        "$defs": {"a": option("a")},
    }
    assert '\\"b\\"' in grammar.of_schema(union)
    with pytest.raises(Unsupported, match="#/oneOf"):
        grammar.of_schema({"oneOf": [option("a"), option("a")]})
