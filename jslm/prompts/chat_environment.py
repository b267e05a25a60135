"""Chat templates as transformers runs them: the same Jinja, the same names, the same sandbox.

Equal to `_compile_jinja_template` of transformers 5 (`utils/chat_template_utils.py`), so that a template renders the
same text here as where its model was trained. The only module that needs Jinja when it is imported.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from jslm.errors import JslmError

_MOMENT: ContextVar[datetime | None] = ContextVar("moment", default=None)


def compile_template(source: str, where: str) -> Callable[..., str]:
    """What renders the template with the variables it is called with; it raises JslmError where the template refuses.

    Besides Jinja's own: `{% generation %}`, `{% break %}`, `{% continue %}`, `raise_exception`, `strftime_now`, and
    `tojson` with its arguments. Raises JslmError, which names the template as `where`, for a source that is none.
    """
    try:
        template = _environment().from_string(source)
    except Exception as error:  # generated code that Python refuses raises its own
        raise JslmError(f"{where}: not a chat template in Jinja: {_reason(error)}") from None
    return lambda **variables: _render(template, variables)


@contextlib.contextmanager
def one_moment() -> Iterator[None]:
    """`strftime_now` gives one time throughout: what is rendered several times is to be the same."""
    token = _MOMENT.set(_MOMENT.get() or datetime.now())
    try:
        yield
    finally:
        _MOMENT.reset(token)


def _render(template: Template, variables: Mapping[str, Any]) -> str:
    try:
        return template.render(variables)
    except Exception as error:  # a template can raise whatever Python's operators and methods do
        raise JslmError(f"the chat template refuses the messages: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    known = isinstance(error, TemplateError) and text
    return text if known else f"{type(error).__name__}: {text}" if text else type(error).__name__


class _Generation(Extension):
    """`{% generation %}` ... `{% endgeneration %}`, around what an assistant says: a block of its own, as a call."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_said"), [], [], body).set_lineno(line)

    def _said(self, caller: Callable[[], str]) -> str:
        return caller()


class _Dict:
    """Jinja's `dict` without the type's attributes, by which a template could get out."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Namespace(Namespace):
    """Jinja's `namespace`, whose attributes can't begin with an underscore."""

    # Without names for its own, so that `namespace(self=1)` works.
    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *rest = args
        attributes = dict(*rest, **kwargs)
        for name in attributes:
            _check_attribute(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_attribute(name)
        super().__setitem__(name, value)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    functions = {"raise_exception": _refuse, "strftime_now": _time, "dict": _Dict(), "namespace": _Namespace}
    environment.globals.update(functions)
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own escapes the characters of HTML.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _time(format: str) -> str:
    return (_MOMENT.get() or datetime.now()).strftime(format)


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _check_attribute(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"an attribute of a namespace cannot begin with an underscore, as {name!r} does")
