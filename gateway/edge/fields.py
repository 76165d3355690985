"""The members that JSON bodies may have, as tables for the filter that refuses all others."""

from collections.abc import Iterable

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from gateway.edge.contracts import INFERENCE_SERVICE, Method, body_type

# Messages that ProtoJSON reads from any JSON value or a scalar, so that their fields are no members of the body.
OPAQUE = "google.protobuf."


def field_tables(methods: Iterable[Method]) -> str:
    """Lua tables: RULES[verb] lists path patterns and the type of their body, TYPES[type] members and their types."""
    rules: dict[str, list[str]] = {}
    kinds: dict[str, Descriptor] = {}
    for method in methods:
        for binding in method.bindings:
            kind = body_type(method, binding)
            if kind is not None and method.service != INFERENCE_SERVICE:
                kinds[kind.full_name] = kind
                rules.setdefault(binding.verb, []).append(f'{{"{_pattern(binding.path)}","{kind.full_name}"}}')
    verbs = ",".join(f"{verb}={{{','.join(sorted(found, key=_vagueness))}}}" for verb, found in sorted(rules.items()))
    return f"local RULES={{{verbs}}}\nlocal TYPES={{{_types(kinds)}}}"


def _pattern(template: str) -> str:
    literal = "".join("%" + mark if mark in "-.+*?%^$()[]" else mark for mark in template)
    while "{" in literal:
        literal = literal[: literal.index("{")] + "[^/]+" + literal[literal.index("}") + 1 :]
    return f"^{literal}$"


def _vagueness(rule: str) -> int:
    """`/users/me` goes before `/users/{user_id}`."""
    return rule.count("[^/]+")


def _types(roots: dict[str, Descriptor]) -> str:
    waiting, written = list(roots.values()), {}
    while waiting:
        kind = waiting.pop()
        if kind.full_name in written:
            continue
        written[kind.full_name] = ""
        members = []
        for field in kind.fields:
            inner = _message_of(field)
            if inner is not None:
                waiting.append(inner)
            value = f'"{inner.full_name}"' if inner is not None else "true"
            members += [f'["{name}"]={value}' for name in {field.name: 0, field.json_name: 0}]
        written[kind.full_name] = "{" + ",".join(members) + "}"
    return ",".join(f'["{name}"]={body}' for name, body in sorted(written.items()))


def _message_of(field: FieldDescriptor) -> Descriptor | None:
    kind: Descriptor | None = field.message_type
    if kind is None or kind.full_name.startswith(OPAQUE) or kind.GetOptions().map_entry:
        return None
    return kind
