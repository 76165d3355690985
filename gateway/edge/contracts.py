"""What the contracts say about every public method: its bindings, who may call it, how it streams."""

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import aiops
from aiops.policy.v1 import policy_pb2
from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor import Descriptor, FileDescriptor, MethodDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.rpc import error_details_pb2, status_pb2

# Answered by the engines, never by the controller.
INFERENCE_SERVICE = "aiops.inference.v1.InferenceService"
VERBS = ("get", "put", "post", "delete", "patch")


@dataclass(frozen=True, slots=True)
class Binding:
    """One REST binding: `verb` in capitals, `path` like `/nodes/{node_id}`; `body` names a field, is `*` or empty."""

    verb: str
    path: str
    body: str
    response_body: str


@dataclass(frozen=True, slots=True)
class Method:
    """One public method."""

    service: str
    name: str
    descriptor: MethodDescriptor
    anyone: bool
    bindings: tuple[Binding, ...]

    @property
    def path(self) -> str:
        """The gRPC path."""
        return f"/{self.service}/{self.name}"

    @property
    def unwraps(self) -> bool:
        """Whether REST answers one field of the response alone."""
        return any(binding.response_body for binding in self.bindings)

    @property
    def streams(self) -> bool:
        """Whether a call may stay open."""
        return bool(self.descriptor.client_streaming or self.descriptor.server_streaming)


def public_methods() -> tuple[Method, ...]:
    """Every method that users may call: those with a policy that is not for workloads of the mesh."""
    found = []
    for file in _files():
        for service in file.services_by_name.values():
            found += [_method(method) for method in service.methods if _is_public(method)]
    return tuple(sorted(found, key=lambda method: method.path))


def descriptor_set() -> FileDescriptorSet:
    """The contracts with all they import, dependencies first, and the types that error details are packed with.

    Without any `response_body`, which Envoy's transcoder refuses.
    """
    written: dict[str, FileDescriptorProto] = {}
    for file in (*_files(), status_pb2.DESCRIPTOR, error_details_pb2.DESCRIPTOR):
        _collect(file, written)
    return FileDescriptorSet(file=written.values())


def body_type(method: Method, binding: Binding) -> Descriptor | None:
    """The message that the JSON body of a binding is read into, or None when it takes no body."""
    if not binding.body:
        return None
    request: Descriptor = method.descriptor.input_type
    return request if binding.body == "*" else request.fields_by_name[binding.body].message_type


def _files() -> Iterator[FileDescriptor]:
    for root in map(Path, aiops.__path__):
        for path in sorted(root.rglob("*_pb2.py")):
            module = ".".join(("aiops", *path.relative_to(root).with_suffix("").parts))
            yield importlib.import_module(module).DESCRIPTOR


def _is_public(method: MethodDescriptor) -> bool:
    allowed = method.GetOptions().Extensions[policy_pb2.policy].WhichOneof("allow")
    return allowed is not None and allowed != "peer"


def _method(method: MethodDescriptor) -> Method:
    options = method.GetOptions()
    rule = options.Extensions[annotations_pb2.http]
    rules = [rule, *rule.additional_bindings]
    return Method(
        service=method.containing_service.full_name,
        name=method.name,
        descriptor=method,
        anyone=options.Extensions[policy_pb2.policy].anyone,
        bindings=tuple(_binding(each) for each in rules if each.WhichOneof("pattern")),
    )


def _binding(rule: http_pb2.HttpRule) -> Binding:
    verb = rule.WhichOneof("pattern")
    return Binding(verb.upper(), getattr(rule, verb), rule.body, rule.response_body)


def _collect(file: FileDescriptor, written: dict[str, FileDescriptorProto]) -> None:
    if file.name in written:
        return
    for dependency in file.dependencies:
        _collect(dependency, written)
    proto = FileDescriptorProto()
    file.CopyToProto(proto)
    for service in proto.service:
        for method in service.method:
            if method.options.HasExtension(annotations_pb2.http):
                method.options.Extensions[annotations_pb2.http].ClearField("response_body")
    written[file.name] = proto
