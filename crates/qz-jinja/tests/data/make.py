"""Writes transformers.json: what transformers makes of the templates in templates.txt and of
the expressions in expressions.txt. Needs transformers and jinja2."""
import json
import os

from transformers.utils.chat_template_utils import _compile_jinja_template

here = os.path.dirname(os.path.abspath(__file__))
arguments = {"b": 1, "a": [1.5, None, True, "z"], "c": {"y": 1e20, "x": -0.0001}}
messages = [
    {"role": "system", "content": " Be brief. "},
    {"role": "user", "content": "Hi 'you' \"there\" é😀\n<x>"},
    {"role": "assistant", "content": "Hello\n\nworld",
     "tool_calls": [{"type": "function", "function": {"name": "get", "arguments": arguments}}]},
    {"role": "tool", "content": [{"type": "text", "text": "a"}, {"type": "image"}], "name": "get"},
]
variables = {"messages": messages, "tools": None, "documents": None,
             "add_generation_prompt": False, "bos_token": "<s>", "eos_token": "</s>"}
expressions = open(os.path.join(here, "expressions.txt")).read().split("\n")
templates = ["{{ %s }}" % expression for expression in expressions if expression]
templates += open(os.path.join(here, "templates.txt")).read().split("\n=====\n")
cases = []
for template in templates:
    try:
        cases.append({"template": template, "text": _compile_jinja_template(template).render(**variables)})
    except Exception:
        cases.append({"template": template, "text": None})
with open(os.path.join(here, "transformers.json"), "w") as file:
    json.dump({"variables": variables, "cases": cases}, file, indent=1)
    file.write("\n")
