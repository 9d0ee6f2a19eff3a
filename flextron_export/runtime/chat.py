"""Chat templates: a conversation becomes a prompt, as transformers' `apply_chat_template` writes it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from ..errors import BundleError, InputError, MissingDependencyError
from ..files import MALFORMED, read_object

TEMPLATE_FILE = "chat_template.jinja"
CONFIG_FILE = "tokenizer_config.json"


class ChatTemplate:
    """A Jinja template, rendered in a sandbox: it reads the messages and can reach nothing else.

    Args:
        source: the template.
        special_tokens: such as `bos_token`, which templates write.

    Raises:
        BundleError: it is no Jinja template.
        MissingDependencyError: jinja2 is not installed.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        try:
            import jinja2
            import jinja2.ext
            import jinja2.sandbox
        except ImportError as error:
            raise MissingDependencyError(
                "jinja2 is not installed; chat templates are written in it.", fix="pip install 'flextron-export[chat]'"
            ) from error

        class Generation(jinja2.ext.Extension):
            """`{% generation %}` marks the assistant's text for training; here it changes nothing."""

            tags = {"generation"}  # noqa: RUF012  # as the base class has it

            def parse(self, parser: Any) -> Any:
                line = next(parser.stream).lineno
                body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
                return jinja2.nodes.Scope(body, lineno=line)

        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        self._errors = jinja2.exceptions.TemplateError
        self._special_tokens = dict(special_tokens)
        try:
            self._template = environment.from_string(source)
        except self._errors as error:
            raise BundleError(f"The chat template is damaged: {error}.", fix="copy the bundle again") from error

    @classmethod
    def of(cls, directory: str | Path) -> ChatTemplate:
        """The template of a bundle: `chat_template.jinja`, else `chat_template` in `tokenizer_config.json`.

        Raises:
            InputError: it has none.
            BundleError: it is damaged.
        """
        directory = Path(directory)
        config, damaged = {}, "copy the bundle again, or export it again"
        if (directory / CONFIG_FILE).is_file():
            config = read_object(directory / CONFIG_FILE, BundleError, damaged)
        try:
            tokens = {k: v["content"] if isinstance(v, dict) else v for k, v in config.items() if k.endswith("_token")}
            source = config.get("chat_template")
            if isinstance(source, list):
                named = {entry["name"]: entry["template"] for entry in source}
                source = named.get("default", next(iter(named.values()), None))
            if (directory / TEMPLATE_FILE).is_file():
                source = (directory / TEMPLATE_FILE).read_text(encoding="utf-8")
        except (OSError, *MALFORMED) as error:
            raise BundleError(f"The chat template of {directory} is damaged: {error}.", fix=damaged) from error
        if not isinstance(source, str):
            raise InputError(
                f"{directory} has no chat template.",
                cause="the model was not trained on conversations",
                fix="give it a text to continue, or add chat_template.jinja to the checkpoint and export again",
            )
        return cls(source, {name: value for name, value in tokens.items() if isinstance(value, str)})

    def render(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True) -> str:
        """The prompt: all messages, and (by default) the beginning of the next answer.

        Args:
            messages: each with `role` and `content`.

        Raises:
            InputError: there is none, or the template refuses them.
        """
        if not messages:
            raise InputError("The conversation is empty.", fix="pass a message")
        try:
            return self._template.render(
                messages=[dict(message) for message in messages],
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._special_tokens,
            )
        except (self._errors, *MALFORMED) as error:
            raise InputError(
                f"The chat template refuses these messages: {error}.",
                cause="a role or an order of roles that the model does not know",
            ) from error


def _raise(message: str) -> NoReturn:
    import jinja2

    raise jinja2.exceptions.TemplateError(message)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **more: Any) -> str:
    # Jinja's own filter escapes for HTML.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **more)
