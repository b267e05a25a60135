"""The API described: an OpenAPI 3.1 document made from the request schemas, and a page that needs nothing else."""

from __future__ import annotations

import html
from typing import Any

from pydantic.json_schema import models_json_schema

import jslm
from jslm.serve.schemas import ChatRequest, CompletionRequest, RewriteRequest

_REF = "#/components/schemas/{model}"
_POSTS = {
    "/v1/completions": (CompletionRequest, "Continue texts", ["application/json", "text/event-stream"]),
    "/v1/chat/completions": (ChatRequest, "Answer in a chat", ["application/json", "text/event-stream"]),
    "/v1/rewrite": (RewriteRequest, "Rewrite sentences", ["application/json"]),
}
_GETS = {
    "/v1/models": ("The models that are served", "application/json"),
    "/healthz": ("Whether the process answers; /health is the same", "application/json"),
    "/readyz": ("Whether requests are served: 503 while models load, while draining, after a crash; /ready too", ""),
    "/metrics": ("Counters and histograms for Prometheus", "text/plain"),
}
_ERRORS = {
    "400": "A parameter is wrong, or the prompt too long",
    "401": "Wrong or missing API key",
    "403": "The key is not for this",
    "404": "No such model",
    "408": "The body came too slowly",
    "413": "The body is too large",
    "415": "The body is not called JSON",
    "421": "The Host header does not name this server, which listens on its machine alone",
    "429": "Too many requests are waiting, or the key's limit is reached",
    "503": "The server is starting, stopping or too slow for its time limit",
}
_ERROR_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


def openapi_document(*, protected: bool) -> dict[str, Any]:
    """The document; `protected`: whether /v1 and /metrics want a bearer token."""
    bodies = [(kind, "validation") for kind, _, _ in _POSTS.values()]
    _, definitions = models_json_schema(bodies, ref_template=_REF)  # type: ignore[arg-type]
    paths: dict[str, Any] = {}
    for path, (kind, summary, media) in _POSTS.items():
        reference = {"$ref": _REF.format(model=kind.__name__)}
        answer = {"description": "The answer", "content": {kind: {} for kind in media}}
        paths[path] = {
            "post": {
                "summary": summary,
                "description": (kind.__doc__ or "").partition(": ")[2],
                "requestBody": {"required": True, "content": {"application/json": {"schema": reference}}},
                "responses": {"200": answer, **_errors(_ERRORS)},
            }
        }
    for path, (summary, content) in _GETS.items():
        answers: dict[str, Any] = {"200": {"description": summary, "content": {content: {}} if content else {}}}
        if path == "/readyz":
            answers["503"] = {"description": "Not now"}
        if path in ("/v1/models", "/metrics"):
            answers |= _errors({code: _ERRORS[code] for code in ("401", "403")})
        answers |= _errors({"421": _ERRORS["421"]})
        paths[path] = {"get": {"summary": summary, "responses": answers}}
    paths["/v1/models/{model}"] = {
        "get": {
            "summary": "One model",
            "parameters": [{"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}],
            "responses": {
                "200": {"description": "The model", "content": {"application/json": {}}},
                **_errors({code: _ERRORS[code] for code in ("401", "403", "404", "421")}),
            },
        }
    }
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "jslm",
            "version": jslm.__version__,
            "description": "Small language models over HTTP, in the shapes of OpenAI's API.",
        },
        "paths": paths,
        "components": {"schemas": {**definitions["$defs"], "Error": _ERROR_SCHEMA}},
    }
    if protected:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, methods in paths.items():
            if path.startswith(("/v1", "/metrics")):
                for operation in methods.values():
                    operation["security"] = [{"key": []}]
    return document


def openapi_page(document: dict[str, Any]) -> str:
    """The document as one page of HTML: no script, nothing from elsewhere."""
    sections = []
    schemas = document["components"]["schemas"]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts = [f"<h2><code>{method.upper()} {_text(path)}</code></h2><p>{_text(operation['summary'])}."]
            parts.append(f" {_text(operation.get('description', ''))}</p>")
            if "requestBody" in operation:
                reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
                parts.append(_fields(schemas[reference.rsplit("/", 1)[1]]))
            rows = (f"<li><b>{c}</b> {_text(r['description'])}</li>" for c, r in operation["responses"].items())
            parts.append(f"<ul>{''.join(rows)}</ul>")
            sections.append("".join(parts))
    style = (
        "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;"
        "color-scheme:light dark}"
        "table{border-collapse:collapse}td,th{border:1px solid #8888;padding:.25rem .5rem;text-align:left;"
        "vertical-align:top}"
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>jslm: API</title><style>{style}</style><h1>jslm {_text(document['info']['version'])}: API</h1>"
        f"<p>{_text(document['info']['description'])} As a document: <a href='openapi.json'>openapi.json</a>.</p>"
        f"{''.join(sections)}</html>"
    )


def _errors(codes: dict[str, str]) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": _REF.format(model="Error")}}}
    return {code: {"description": about, "content": content} for code, about in codes.items()}


def _fields(schema: dict[str, Any]) -> str:
    required = set(schema.get("required", ()))
    rows = []
    for name, field in schema["properties"].items():
        default = "required" if name in required else repr(field.get("default"))
        rows.append(
            f"<tr><td><code>{_text(name)}</code><td>{_text(_kind(field))}<td>{_text(default)}"
            f"<td>{_text(field.get('description', ''))}"
        )
    return f"<table><tr><th>field<th>type<th>default<th>meaning{''.join(rows)}</table>"


def _kind(field: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(_kind(option) for option in field["anyOf"])
    if "$ref" in field:
        return str(field["$ref"]).rsplit("/", 1)[1]
    if field.get("type") == "array":
        return f"list of {_kind(field.get('items', {}))}"
    return str(field.get("type", field.get("const", field.get("enum", "any"))))


def _text(value: Any) -> str:
    return html.escape(str(value))
