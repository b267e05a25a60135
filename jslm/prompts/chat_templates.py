"""The built-in chat templates. They run in jslm, transformers and llama.cpp alike."""

from __future__ import annotations

# Both take a system message first or none, then user and assistant by turns, as the models of others expect it too.
_TURNS = """\
{{- bos_token -}}
{%- set turns = namespace(next="user") -%}
{%- for message in messages -%}
  {%- if message.role == "developer" -%}
    {%- set role = "system" -%}
  {%- else -%}
    {%- set role = message.role -%}
  {%- endif -%}
  {%- if role == "system" and loop.first -%}
  {%- elif role == turns.next -%}
    {%- set turns.next = "assistant" if role == "user" else "user" -%}
  {%- else -%}
    {{- raise_exception("message " ~ loop.index ~ " is of the role " ~ message.role ~ ", expected " ~ turns.next ~ \
" (a system message may come first, then user and assistant take turns)") -}}
  {%- endif -%}
"""
_PLAIN = """\
  {%- if role == "assistant" -%}
    {{- "Assistant:\\n" ~ message.content ~ eos_token -}}
  {%- else -%}
    {{- ("System" if role == "system" else "User") ~ ":\\n" ~ message.content ~ "\\n\\n" -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- "Assistant:\\n" -}}
{%- endif -%}
"""
_CHATML = """\
  {{- "<|im_start|>" ~ role ~ "\\n" ~ message.content ~ "<|im_end|>\\n" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- "<|im_start|>assistant\\n" -}}
{%- endif -%}
"""

BUILT_IN = {"plain": _TURNS + _PLAIN, "chatml": _TURNS + _CHATML}
NEEDED_TOKENS = {"chatml": ("<|im_start|>", "<|im_end|>")}
