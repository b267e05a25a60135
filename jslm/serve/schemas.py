"""The bodies of requests. Whatever is not here is refused by name: nothing that a client asks for is ignored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

TokenId = Annotated[int, Field(ge=0)]
Stop = Annotated[str, Field(min_length=1, max_length=256)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class StreamOptions(_Body):
    """What a stream says besides its text."""

    include_usage: bool = Field(False, description="A last event with the counts of tokens.")


class _Generation(_Body):
    """What completions, chat and rewriting share. null: the default of the model's run, its `[sample]` section."""

    model: str = Field(description="Id of a model, as /v1/models lists them.")
    temperature: float | None = Field(None, ge=0, le=100, description="0 is greedy.")
    top_p: float | None = Field(None, gt=0, le=1, description="Keep the likeliest tokens that reach this probability.")
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
        None, ge=0, lt=2**63, description="The same seed writes the same text, as jslm.sample does. null: a new one."
    )
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = Field(
        None, description="The text ends before any of these."
    )
    conditions: dict[str, str] = Field(
        {},
        description='What the text is to be, such as {"style": "formal"}, for a model trained with conditions; '
        "/v1/models lists its own. One that is left out is left open.",
    )
    user: str | None = Field(None, max_length=256, description="Not used.")


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


class TextPart(_Body):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(_Body):
    """One turn of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None


class ResponseFormat(_Body):
    """Only text is served."""

    type: Literal["text"]


class ChatRequest(_Generation):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=2048)]
    max_tokens: int | None = Field(None, ge=1, description="Tokens to write at most.")
    max_completion_tokens: int | None = Field(None, ge=1, description="The newer name of max_tokens.")
    n: int = Field(1, ge=1, le=128, description="Answers.")
    logprobs: bool | None = Field(None, description="Log-probabilities of the tokens.")
    top_logprobs: int | None = Field(None, ge=0, le=20, description="So many likeliest tokens beside each.")
    stream: bool = False
    stream_options: StreamOptions | None = None
    logit_bias: dict[str, float] | None = Field(None, description="Only an empty one is taken.")
    response_format: ResponseFormat | None = None


class RewriteRequest(_Generation):
    """POST /v1/rewrite: each sentence rewritten by itself. Greedy unless a temperature is given."""

    sentences: Annotated[list[str], Field(min_length=1, max_length=2048)]
    max_tokens: int | None = Field(None, ge=1, description="Tokens a sentence at most.")


Json = dict[str, Any]
