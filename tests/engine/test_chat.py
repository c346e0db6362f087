"""Chat templates: rendered as transformers renders them, in a sandbox that gives nothing away."""

from __future__ import annotations

import pytest

from hearthd.engine.chat import ChatTemplate, TemplateRefused

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, bos="<s>", eos="</s>")


def test_chatml() -> None:
    text = template(CHATML).render([{"role": "user", "content": "Hi"}])
    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_special_tokens_arguments_and_json() -> None:
    source = "{{ bos_token }}{{ messages[0] | tojson }}{{ thinking }}{{ eos_token }}"
    text = template(source).render([{"role": "user", "content": "<é>"}], {"thinking": "no"})
    assert text == '<s>{"role": "user", "content": "<é>"}no</s>'


def test_arguments_of_any_name() -> None:
    names = ["self", "text", "rid", "arguments", "context", "messages", "a b", ""]
    said = [{"role": "user", "content": "Hi"}]
    source = "{{ messages[0].content }} {{ text }} {{ rid }} {{ arguments }}"
    assert template(source).render(said, dict.fromkeys(names, 7)) == "Hi 7 7 7"
    assert template(CHATML).render([], {"add_generation_prompt": False}) == ""


def test_a_template_says_what_it_does_not_take() -> None:
    source = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    )
    with pytest.raises(TemplateRefused, match="no system role"):
        template(source).render([{"role": "system", "content": ""}])


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ 1 // 0 }}",
        "{{ messages[7].content.x }}",
    ],
)
def test_the_sandbox_refuses(source: str) -> None:
    with pytest.raises(TemplateRefused):
        template(source).render([{"role": "user", "content": ""}])


def test_a_broken_template_is_refused_when_compiled() -> None:
    with pytest.raises(TemplateRefused, match="does not compile"):
        template("{% if %}")
