"""Chat templates: what transformers writes, in a sandbox."""

import json

import pytest

from flextron_export import Runner
from flextron_export.errors import BundleError, InputError
from flextron_export.runtime.chat import ChatTemplate

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
TEMPLATES = {
    "chatml": """{% for message in messages %}
{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}
{% endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant\n' }}
{% endif %}""",
    "llama": """{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content | trim }} [/INST]
    {%- else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}""",
    "tools and json": """{% if tools is not none %}{{ tools | tojson }}{% endif %}{{ messages | tojson(indent=2) }}""",
    "loop controls": """{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}
        {%- generation %}{{ m.content }}{% endgeneration %}{% endfor %}""",
    "state": """{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}""",
}
MESSAGES = [
    {"role": "system", "content": "Be brief. <b>&"},
    {"role": "user", "content": " What is “2 + 2”?\n"},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "Thanks."},
]


@pytest.mark.parametrize("add", [True, False])
@pytest.mark.parametrize("name", TEMPLATES)
def test_the_prompt_is_that_of_transformers(name, add):
    from transformers.utils.chat_template_utils import render_jinja_template

    wanted, _ = render_jinja_template([MESSAGES], chat_template=TEMPLATES[name], add_generation_prompt=add, **TOKENS)
    assert ChatTemplate(TEMPLATES[name], TOKENS).render(MESSAGES, add_generation_prompt=add) == wanted[0]


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ messages.append(1) }}",
        "{% include '/etc/passwd' %}",
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages[0].role + 1 }}",
        "{{ messages | nonsense }}",
        "{% for %}",
    ],
)
def test_what_a_template_may_not_do_or_refuses_is_an_error(source):
    with pytest.raises((InputError, BundleError), match="chat template"):
        ChatTemplate(source, {}).render(MESSAGES)


def test_the_error_of_a_template_reaches_the_user():
    with pytest.raises(InputError, match="roles must alternate"):
        ChatTemplate("{{ raise_exception('roles must alternate') }}", {}).render(MESSAGES)
    with pytest.raises(InputError, match="conversation is empty"):
        ChatTemplate("", {}).render([])


def write(directory, config=None, template=None):
    if config is not None:
        (directory / "tokenizer_config.json").write_text(json.dumps(config))
    if template is not None:
        (directory / "chat_template.jinja").write_text(template)
    return ChatTemplate.of(directory).render([{"role": "user", "content": "hi"}])


def test_where_the_template_lies(tmp_path):
    tokens = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": None}
    with pytest.raises(InputError, match="no chat template"):
        write(tmp_path, tokens)
    assert write(tmp_path, {**tokens, "chat_template": "{{bos_token}}1{{eos_token}}"}) == "<s>1</s>"
    several = [{"name": "rag", "template": "3"}, {"name": "default", "template": "2"}]
    assert write(tmp_path, {**tokens, "chat_template": several}) == "2"
    assert write(tmp_path, template="{{bos_token}}4") == "<s>4"


@pytest.mark.parametrize("config", [{"chat_template": [1]}, {"chat_template": [{"name": "a"}]}, {"bos_token": {}}])
def test_a_damaged_configuration_is_told(tmp_path, config):
    with pytest.raises(BundleError, match="damaged"):
        write(tmp_path, config)


def test_a_conversation_is_answered(bundle):
    with Runner(bundle, threads=1) as runner, pytest.raises(InputError, match="no chat template"):
        runner.chat(MESSAGES)
    (bundle.path / "chat_template.jinja").write_text(TEMPLATES["chatml"])
    with Runner(bundle, threads=1) as runner:
        prompt = ChatTemplate(TEMPLATES["chatml"], {}).render(MESSAGES)
        assert runner.chat(MESSAGES[:], 12, seed=1).read() == runner.generate(prompt, 12).read()
