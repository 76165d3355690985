"""Calls of the inference service that a script in Envoy translates: their paths and messages, as its tables."""

from collections.abc import Iterable

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from gateway.edge.contracts import INFERENCE_SERVICE, Method

# What Envoy's transcoder has no way for, and where engines answer it.
ENGINE_PATHS = {
    "StreamChat": "/v1/chat/completions",
    "StreamComplete": "/v1/completions",
    "Transcribe": "/v1/audio/transcriptions",
}
SCALARS = {
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_BYTES: "string",
    FieldDescriptor.TYPE_UINT32: "uint32",
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_DOUBLE: "double",
    FieldDescriptor.TYPE_BOOL: "bool",
}


def is_scripted(method: Method) -> bool:
    """Whether a script translates the call."""
    return method.service == INFERENCE_SERVICE and method.name in ENGINE_PATHS


def wire_tables(methods: Iterable[Method]) -> str:
    """Lua tables: CALLS[path] and SHAPES[type], as the scripts say."""
    scripted = [method for method in methods if is_scripted(method)]
    calls = ",".join(f'["{method.path}"]={{{_call(method)}}}' for method in scripted)
    roots = [kind for method in scripted for kind in (method.descriptor.input_type, method.descriptor.output_type)]
    return f"local CALLS={{{calls}}}\nlocal SHAPES={{{_shapes(roots)}}}"


def _call(method: Method) -> str:
    kinds = (method.descriptor.input_type.full_name, method.descriptor.output_type.full_name)
    streams = "true" if method.streams else "false"
    return ",".join((*(f'"{text}"' for text in (ENGINE_PATHS[method.name], *kinds)), streams))


def _shapes(roots: list[Descriptor]) -> str:
    waiting, written = list(roots), dict[str, str]()
    while waiting:
        kind = waiting.pop()
        if kind.full_name not in written:
            written[kind.full_name] = ",".join(_field(field) for field in kind.fields)
            waiting += [field.message_type for field in kind.fields if field.message_type is not None]
    return ",".join(f'["{name}"]={{{fields}}}' for name, fields in sorted(written.items()))


def _field(field: FieldDescriptor) -> str:
    kind = field.message_type.full_name if field.message_type is not None else SCALARS[field.type]
    return f'[{field.number}]={{"{field.name}","{kind}",{"true" if field.is_repeated else "false"}}}'
