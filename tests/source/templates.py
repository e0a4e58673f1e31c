"""Chat templates in the styles of published models, and chats to render with them."""

from collections.abc import Mapping, Sequence
from typing import Any

TEMPLATES: Mapping[str, str] = {
    "phi-3-mini": (
        "{{ bos_token }}{% for turn in messages %}{% if turn['role'] == 'user' %}"
        "{{ '<|user|>\n' + turn['content'] + '<|end|>\n<|assistant|>\n' }}"
        "{% elif turn['role'] == 'assistant' %}{{ turn['content'] + '<|end|>\n' }}{% endif %}"
        "{% endfor %}"
    ),
    "phi-3.5": (
        "{% for turn in messages %}{% if turn['role'] == 'system' and turn['content'] %}"
        "{{ '<|system|>\n' + turn['content'] + '<|end|>\n' }}{% elif turn['role'] == 'user' %}"
        "{{ '<|user|>\n' + turn['content'] + '<|end|>\n' }}"
        "{% elif turn['role'] == 'assistant' %}"
        "{{ '<|assistant|>\n' + turn['content'] + '<|end|>\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
    ),
    "phi-4": (
        "{% for turn in messages %}{% if turn.role in ('system', 'user', 'assistant') %}"
        "{{ '<|im_start|>' ~ turn.role ~ '<|im_sep|>' ~ turn.content ~ '<|im_end|>' }}"
        "{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"
    ),
    "phi-4-mini": (
        "{% for turn in messages %}{% if turn['role'] == 'system' and 'tools' in turn"
        " and turn['tools'] is not none %}{{ '<|system|>' + turn['content'] + '<|tool|>'"
        " + turn['tools'] + '<|/tool|><|end|>' }}{% else %}"
        "{{ '<|' + turn['role'] + '|>' + turn['content'] + '<|end|>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"
    ),
    "phi-4-reasoning": (
        "<|im_start|>system<|im_sep|>Think first, inside <think> and </think>."
        "{% if messages[0].role == 'system' %} {{ messages[0].content }}{% endif %}<|im_end|>"
        "{% for turn in messages %}{% if turn.role == 'user' %}"
        "<|im_start|>user<|im_sep|>{{ turn.content }}<|im_end|>{% elif turn.role == 'assistant' %}"
        "<|im_start|>assistant<|im_sep|>{% generation %}"
        "{{ turn.content.split('</think>')[-1] if not loop.last else turn.content }}<|im_end|>"
        "{% endgeneration %}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant<|im_sep|>{% endif %}"
    ),
    "function calling": (
        "{%- if tools %}\n    {{- '<|system|>\\n# Tools\\n' }}\n"
        "    {%- for tool in tools %}\n        {{- tool | tojson(indent=2) }}\n    {%- endfor %}\n"
        "    {{- '<|end|>\\n' }}\n{%- endif %}\n"
        "{%- for turn in messages %}\n    {%- if turn.tool_calls %}\n"
        "        {%- for call in turn.tool_calls %}\n"
        "            {{- '<call>' ~ (call.function.arguments | tojson) ~ '</call>' }}\n"
        "        {%- endfor %}\n    {%- elif turn.role == 'tool' %}\n"
        "        {{- '<result id=' ~ turn.tool_call_id ~ '>' ~ turn.content }}\n"
        "    {%- else %}\n        {{- turn.role ~ ': ' ~ turn.content }}\n    {%- endif %}\n"
        "{%- endfor %}"
    ),
    "content parts": (
        "{% for turn in messages %}<|{{ turn.role }}|>{% if turn.content is string %}"
        "{{ turn.content }}{% else %}{% for part in turn.content %}{% if part.type == 'text' %}"
        "{{ part.text }}{% endif %}{% endfor %}{% endif %}<|end|>{% endfor %}"
    ),
    "strict turns": (
        "{% for turn in messages %}{% if turn.role == 'system' %}"
        "{{ raise_exception('no system turns') }}{% endif %}"
        "{% if (turn.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('turns must alternate') }}{% endif %}"
        "{{ bos_token if loop.first }}[{{ turn.content | trim }}]{% endfor %}"
    ),
    "loop controls": (
        "{% for turn in messages %}{% if turn.role == 'system' %}{% continue %}{% endif %}"
        "{{ turn.content }}{% if loop.index > 2 %}{% break %}{% endif %}{% endfor %}"
    ),
    "namespace and macro": (
        "{%- macro line(turn) -%}<{{ turn.role | upper }}> {{ turn.content }}\n{%- endmacro %}"
        "{%- set state = namespace(users=0, text='') %}{%- for turn in messages %}"
        "{%- if turn.role == 'user' %}{% set state.users = state.users + 1 %}{% endif %}"
        "{%- set state.text = state.text ~ line(turn) %}{%- endfor %}"
        "{{ state.users }} {{ state.text }}{{ dict(a=1) }}{{ dict.fromkeys([1], 2) }}"
    ),
    "json": (
        "{{ messages | tojson }}\n{{ messages | tojson(indent=4, sort_keys=True) }}\n"
        "{{ messages | tojson(ensure_ascii=True, separators=(',', ':')) }}"
        "{{ tools is none }}{{ documents is none }}{{ documents is defined }}"
    ),
    "special tokens": (
        "{{ bos_token }}|{{ eos_token }}|{{ pad_token }}|{{ unk_token }}|{{ image_token }}|"
        "{{ audio }}|{{ additional_special_tokens is defined }}|{{ add_bos_token is defined }}|"
        "{{ enable_thinking is defined }}|{{ add_generation_prompt }}"
    ),
    "reasoning": (
        "{% for turn in messages %}{{ turn.reasoning_content or '' }}/{{ turn.thinking or '' }}/"
        "{{ turn.reasoning is defined }};{% endfor %}"
    ),
    "white space": (
        "   {% if true %}\n  x\n   {% endif %}\n{#- a note -#}\n {{ messages | length }} \n\n"
    ),
    "slices and filters": (
        "{% set rest = messages[1:] if messages[0]['role'] == 'system' else messages %}"
        "{{ rest | map(attribute='role') | join(',') }} {{ rest | selectattr('role', 'equalto',"
        " 'user') | list | length }} {{ '%s' | format(rest[-1].role) }} {{ rest[::-1] | length }}"
    ),
    "unknown tag": "{% nowhere %}",
    "unknown function": "{{ nowhere() }}",
    "attack": "{{ ''.__class__.__mro__ }}",
}
"""Templates by name; the last ones fail."""

_CALL = {
    "id": "c1",
    "type": "function",
    "function": {"name": "weather", "arguments": {"city": "Żory <&>"}},
}
_USER, _ASSISTANT = (
    {"role": "user", "content": ' Is it "warm"?\n<b>&amp; dry</b> Ünïcode 🙂'},
    {"role": "assistant", "content": "<think>Let me see.</think>Yes."},
)

CHATS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "question": [_USER],
    "turns": [_USER, _ASSISTANT, {"role": "user", "content": "And tomorrow?"}],
    "system": [{"role": "system", "content": "Be brief."}, _USER, _ASSISTANT],
    "system without text": [{"role": "system", "content": ""}, _USER],
    "two users": [_USER, _USER],
    "tools in the system turn": [
        {"role": "system", "content": "Use the tools.", "tools": '[{"name": "weather"}]'},
        _USER,
    ],
    "no tools in the system turn": [
        {"role": "system", "content": "Use the tools.", "tools": None},
        _USER,
    ],
    "tool calls": [
        _USER,
        {"role": "assistant", "content": None, "tool_calls": [_CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "21"},
        _ASSISTANT,
    ],
    "keys that are null": [{**_USER, "name": None, "tool_calls": None}],
    "reasoning": [_USER, {**_ASSISTANT, "reasoning": "It is June."}],
    "another role": [{"role": "developer", "content": "Be kind.", "name": "dev"}, _USER],
}
"""Chats by name."""

TOOLS: Sequence[Mapping[str, Any]] = (
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": 'Weather of a city, "today"',
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    },
)
