"""The bodies of requests, as OpenAI's schema allows them.

null is the same as leaving a field out. A field that is not here is ignored, and the answer says so in a header
(`ignored_fields`); a field that is here and asks for what this server lacks is refused: its answer would be another.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, field_validator, model_validator
from pydantic_core import CoreSchema, PydanticCustomError

Json = dict[str, Any]
TokenId = Annotated[int, Field(ge=0)]
Stop = Annotated[str, Field(min_length=1, max_length=256)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_left_out(cls, values: Any) -> Any:
        return (
            {key: value for key, value in values.items() if value is not None} if isinstance(values, dict) else values
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> Json:
        """The schema with null for each field that may be left out."""
        schema = handler.resolve_ref_schema(handler(core_schema))
        required = schema.get("required", ())
        for name, field in schema["properties"].items():
            options = field.get("anyOf", ())
            if name in required or {"type": "null"} in options:
                continue
            said = {key: field.pop(key) for key in ("title", "description", "default") if key in field}
            kinds = field.pop("anyOf") if options else [dict(field)]
            field.clear()
            field |= {"anyOf": [*kinds, {"type": "null"}], **said}
        return schema


def ignored_fields(body: BaseModel) -> list[str]:
    """The names of what a request says and the server has no use for, such as `messages.tool_calls`; each once."""
    return list(dict.fromkeys(_ignored(body)))


def _ignored(body: BaseModel) -> Iterator[str]:
    yield from body.model_extra or ()
    for name in type(body).model_fields:
        value = getattr(body, name)
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, BaseModel):
                yield from (f"{name}.{inner}" for inner in _ignored(each))


class StreamOptions(_Body):
    """What a stream says besides its text."""

    include_usage: bool = Field(False, description="A last event with the counts of tokens.")


class _Generation(_Body):
    """What completions, chat and rewriting share. null: the default of the model's run, its `[sample]` section."""

    model: str = Field(description="Id of a model, as /v1/models lists them.")
    temperature: float | None = Field(None, ge=0, le=100, description="0 is greedy.")
    top_p: float | None = Field(
        None, ge=0, le=1, description="Keep the likeliest tokens that reach this probability; 0: the likeliest alone."
    )
    top_k: int | None = Field(None, ge=0, description="Keep the k likeliest tokens; 0: all.")
    min_p: float | None = Field(None, ge=0, le=1, description="Drop tokens under this share of the likeliest one's.")
    repetition_penalty: float | None = Field(
        None, gt=0, le=100, description="Above 1: tokens already there, prompt included, are less likely."
    )
    presence_penalty: float = Field(
        0.0, ge=-2, le=2, description="Taken from the logits of tokens that the text has since the prompt."
    )
    frequency_penalty: float = Field(0.0, ge=-2, le=2, description="The same, for each time that it has them.")
    seed: int | None = Field(
        None,
        ge=-(2**63),
        lt=2**63,
        description="The same seed writes the same text, as jslm.sample does; -1 is 2**63 - 1, and so on down. null: a "
        "new one.",
    )
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = Field(
        None, description="The text ends before any of these."
    )
    conditions: dict[str, str] = Field(
        {},
        description='What the text is to be, such as {"style": "formal"}, for a model trained with conditions; '
        "/v1/models lists its own. One that is left out is left open.",
    )


class CompletionRequest(_Generation):
    """POST /v1/completions."""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=2048)]
        | Annotated[list[TokenId], Field(min_length=1)]
        | Annotated[list[Annotated[list[TokenId], Field(min_length=1)]], Field(min_length=1, max_length=2048)]
    ) = Field("", description="Text, several texts, or token ids, which are read as they are. Empty: a new document.")
    max_tokens: int | None = Field(
        None, ge=0, description="Tokens to write at most; less where the context is full. 0, with echo: only score."
    )
    n: int = Field(1, ge=1, le=128, description="Samples of each prompt.")
    best_of: int | None = Field(None, ge=1, description="Only the value of n is taken.")
    echo: bool = Field(False, description="The prompt comes before the continuation.")
    logprobs: int | None = Field(
        None, ge=0, le=20, description="Log-probabilities of the tokens, and of so many likeliest ones beside each."
    )
    stream: bool = Field(False, description="Server-sent events as the text is written.")
    stream_options: StreamOptions | None = None
    logit_bias: dict[str, float] | None = Field(None, description="Only an empty one is taken.")
    suffix: Literal[""] | None = Field(None, description="Not served: these models only continue a text.")


class ContentPart(_Body):
    """A part of a message: text, or the text of a refusal."""

    type: Literal["text", "refusal"]
    text: str = ""
    refusal: str = ""


class Message(_Body):
    """One turn of a chat. The models read roles and texts; calls of tools, names and the like are ignored."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[ContentPart] = Field(
        "", description="Text, or parts of it, which are joined. Only an assistant's may be left out."
    )
    refusal: str = Field("", description="What an assistant said, where it has no content.")

    @field_validator("content", mode="before")
    @classmethod
    def _is_text(cls, content: Any) -> Any:
        """One line for what is no text, rather than one for each kind of content that it is not."""
        if isinstance(content, str):
            return content
        if not isinstance(content, list):
            raise PydanticCustomError("no_text", "expected a text or a list of parts of the type text")
        for number, part in enumerate(content):
            kind = part.get("type") if isinstance(part, dict) else None
            if kind not in ("text", "refusal"):
                found = f"is of the type {kind!r:.60}" if isinstance(kind, str) else "has no type"
                raise PydanticCustomError(
                    "no_text", "part {number} {found}; these models read text alone", {"number": number, "found": found}
                )
            if not isinstance(part.get(kind), str):
                raise PydanticCustomError(
                    "no_text", "part {number} has no {kind}, or one that is no text", {"number": number, "kind": kind}
                )
        return content

    @model_validator(mode="after")
    def _says_something(self) -> Message:
        if self.role != "assistant" and "content" not in self.model_fields_set:
            raise PydanticCustomError("no_text", "no content; expected a text or a list of parts of the type text")
        return self

    def text(self) -> str:
        """All that it says."""
        if isinstance(self.content, str):
            return self.content or self.refusal
        return "".join(part.text or part.refusal for part in self.content) or self.refusal


class ResponseFormat(_Body):
    """Only text is served."""

    type: Literal["text"] = Field("text", description="JSON cannot be promised.")


class ChatRequest(_Generation):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=2048)]
    max_tokens: int | None = Field(None, ge=1, description="Tokens to write at most.")
    max_completion_tokens: int | None = Field(None, ge=1, description="The newer name of max_tokens.")
    n: int = Field(1, ge=1, le=128, description="Answers.")
    logprobs: bool | None = Field(None, description="Log-probabilities of the tokens.")
    top_logprobs: int = Field(0, ge=0, le=20, description="So many likeliest tokens beside each.")
    stream: bool = False
    stream_options: StreamOptions | None = None
    logit_bias: dict[str, float] | None = Field(None, description="Only an empty one is taken.")
    response_format: ResponseFormat | None = None
    modalities: list[Literal["text"]] = Field(["text"], description="Only text is written.")
    tool_choice: Literal["none", "auto"] = Field("none", description="No tools are called: an answer is always text.")
    function_call: Literal["none", "auto"] = Field("none", description="The older name of tool_choice.")


class RewriteRequest(_Generation):
    """POST /v1/rewrite: each sentence rewritten by itself. Greedy unless a temperature is given."""

    sentences: Annotated[list[str], Field(min_length=1, max_length=2048)]
    max_tokens: int | None = Field(None, ge=1, description="Tokens a sentence at most.")
    threshold: float | None = Field(
        None, ge=0, le=1, description="A sentence stays where the confidence is lower. null: the model's own."
    )
