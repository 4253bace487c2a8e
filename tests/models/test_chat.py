"""Chat templates: sandboxed, hashed, and refusing what they cannot render."""

import json

import pytest

from miaobi.core.errors import BadInput, Damaged
from miaobi.models.chat import ChatTemplate, from_folder, from_gguf

PAYLOADS = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ messages.append(1) }}",
    "{{ strftime_now.__globals__['os'] }}",
    "{% for i in range(100000000) %}x{% endfor %}",
    "{{ raise_exception('no') }}",
]


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_hostile_template_gets_nowhere(payload: str) -> None:
    with pytest.raises(BadInput):
        ChatTemplate(payload).render([{"role": "user", "content": "x"}])


def test_a_broken_template_is_damaged() -> None:
    with pytest.raises(Damaged):
        ChatTemplate("{% for %}").render([{"role": "user", "content": "x"}])


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"content": "x"}],
        [{"role": "user", "content": 5}],
        ["x"],
        [{"role": "user", "content": [{"type": "image_url"}]}],
    ],
)
def test_wrong_messages_are_refused(messages: list) -> None:
    with pytest.raises(BadInput):
        ChatTemplate("{{ messages }}").render(messages)


def test_parts_of_text_are_joined_and_html_left_alone() -> None:
    template = ChatTemplate(
        "{{ bos_token }}{{ messages[0].content }}{{ messages[0] | tojson }}",
        bos_token="<s>",
    )
    assert template.render(
        [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "a<"},
                    {"type": "text", "text": "春"},
                ],
            }
        ]
    ).text == ('<s>a<春{"role": "user", "content": "a<春"}')


def test_folder_and_gguf(tmp_path) -> None:
    assert from_folder(tmp_path) is None
    assert from_gguf({}) is None
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": "A", "bos_token": {"content": "<s>"}})
    )
    assert from_folder(tmp_path) == ChatTemplate("A", "<s>", "")
    (tmp_path / "chat_template.jinja").write_text("B")
    assert from_folder(tmp_path).source == "B"
    assert (
        from_folder(tmp_path).hash
        == "df7e70e5021544f4834bbee64a9e3789febc4be81470df629cad6ddb03320a5c"
    )
    metadata = {
        "tokenizer.chat_template": "C",
        "tokenizer.ggml.tokens": ["x", "<s>"],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 9,
    }
    assert from_gguf(metadata) == ChatTemplate("C", "<s>", "")


SOURCES = [
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content | trim }} [/]"
    "{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}",
    "{% for m in messages %}{% if m.role == 'assistant' %}A: {% generation %}"
    "{{ m.content }}{{ eos_token }}{% endgeneration %}{% else %}U: {{ m.content }}\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}A: {% endif %}",
]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("written", ["", "Once upon ", "Once\n\n", "<|im_end|> 春"])
def test_an_answer_is_gone_on_with_where_it_ended(source: str, written: str) -> None:
    template = ChatTemplate(source, bos_token="<s>", eos_token="</s>")
    asked = [{"role": "user", "content": "A story."}]
    going_on = [*asked, {"role": "assistant", "content": written}]
    prompt = template.render(going_on, continue_final_message=True)
    assert prompt.text == template.render(asked).text + written


def test_a_template_that_hides_the_last_message_cannot_go_on() -> None:
    template = ChatTemplate("{{ messages[0].content }}")
    messages = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "y"},
    ]
    with pytest.raises(BadInput, match="last message"):
        template.render(messages, continue_final_message=True)
