"""Writes the OpenAPI 3.1 document of the REST API: `python tools/openapi.py DESCRIPTOR_SET OUTPUT`.

The descriptor set carries source information, for the comments; the generated code lies around the output.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorSet, MethodDescriptorProto, ServiceDescriptorProto

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(sys.argv[2]).resolve().parents[1]))

from aiops.policy.v1 import policy_pb2

from tools.openapi_models import MODEL_PATHS, MODEL_SCHEMAS
from tools.openapi_schemas import Schemas, camel

BEARER = "bearer"
VERBS = ("get", "put", "post", "delete", "patch")
JSON = "application/json"
# Engines answer these, with a contract of their own.
INFERENCE = "aiops.inference.v1"


def main() -> int:
    """Writes the document that the arguments name."""
    descriptors = FileDescriptorSet.FromString(Path(sys.argv[1]).read_bytes())
    document = render(descriptors)
    Path(sys.argv[2]).write_text(json.dumps(document, indent=1, sort_keys=False) + "\n")
    return 0


def render(descriptors: FileDescriptorSet) -> dict[str, Any]:
    """The document of every public method that has a REST binding."""
    schemas = Schemas(descriptors)
    paths: dict[str, dict[str, Any]] = {}
    tags: list[dict[str, Any]] = []
    for file in sorted(descriptors.file, key=lambda each: each.name):
        if not file.package.startswith("aiops.") or file.package == INFERENCE:
            continue
        for service in file.service:
            found = _service_paths(schemas, file.package, service)
            for path, operations in found.items():
                paths.setdefault(path, {}).update(operations)
            if found:
                tags.append({"name": _tag(service), "description": schemas.comment(f"{file.package}.{service.name}")})
    paths |= MODEL_PATHS
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "aiops",
            "version": "1.0.0",
            "description": "Every method is also a gRPC method of the same port; the contracts are Protobuf.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [*tags, {"name": "Models served", "description": "OpenAI's API, answered by the engines."}],
        "security": [{BEARER: []}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "securitySchemes": {
                BEARER: {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "An access token or an API key.",
                }
            },
            "schemas": dict(sorted((schemas.written | MODEL_SCHEMAS | {"Error": _error()}).items())),
        },
    }


def _service_paths(schemas: Schemas, package: str, service: ServiceDescriptorProto) -> dict[str, dict[str, Any]]:
    paths: dict[str, dict[str, Any]] = {}
    for method in service.method:
        rule = method.options.Extensions[annotations_pb2.http]
        for binding in (rule, *rule.additional_bindings):
            verb = binding.WhichOneof("pattern")
            if verb in VERBS:
                operation = _operation(schemas, f"{package}.{service.name}", service, method, binding)
                paths.setdefault(getattr(binding, verb), {})[verb] = operation
    return paths


def _operation(
    schemas: Schemas,
    full_name: str,
    service: ServiceDescriptorProto,
    method: MethodDescriptorProto,
    rule: http_pb2.HttpRule,
) -> dict[str, Any]:
    path = getattr(rule, rule.WhichOneof("pattern") or "get")
    comment = schemas.comment(f"{full_name}.{method.name}")
    policy = method.options.Extensions[policy_pb2.policy]
    operation: dict[str, Any] = {
        "operationId": f"{service.name}_{method.name}",
        "tags": [_tag(service)],
        "summary": comment.split(".")[0] or re.sub(r"(?<!^)(?=[A-Z])", " ", method.name).capitalize(),
    }
    if comment:
        operation["description"] = comment
    if policy.anyone:
        operation["security"] = []
    if policy.permission:
        operation["x-permission"] = policy_pb2.Permission.Name(policy.permission)
    in_path = re.findall(r"{(\w+)[^}]*}", path)
    parameters = _parameters(schemas, method.input_type, in_path, rule.body)
    if parameters:
        operation["parameters"] = parameters
    if rule.body:
        operation["requestBody"] = _body(schemas, method, rule.body, in_path)
    operation["responses"] = _responses(schemas, method, rule.response_body)
    return operation


def _parameters(schemas: Schemas, kind: str, in_path: list[str], body: str) -> list[dict[str, Any]]:
    parameters = []
    for field in schemas.message(kind).field:
        if field.name in in_path:
            parameters.append(
                {"name": field.name, "in": "path", "required": True, "schema": schemas.field(kind, field)}
            )
        elif body != "*" and field.name != body and not schemas.is_message(field):
            parameters.append({"name": camel(field.name), "in": "query", "schema": schemas.field(kind, field)})
    return parameters


def _body(schemas: Schemas, method: MethodDescriptorProto, body: str, in_path: list[str]) -> dict[str, Any]:
    if body == "*":
        schema = schemas.reference(method.input_type, without=in_path)
    else:
        field = next(field for field in schemas.message(method.input_type).field if field.name == body)
        schema = schemas.field(method.input_type, field)
    return {"required": True, "content": {JSON: {"schema": schema}}}


def _responses(schemas: Schemas, method: MethodDescriptorProto, response_body: str) -> dict[str, Any]:
    if response_body:
        field = next(field for field in schemas.message(method.output_type).field if field.name == response_body)
        schema = schemas.field(method.output_type, field)
    else:
        schema = schemas.reference(method.output_type)
    says = "One JSON object a line, as they come." if method.server_streaming else "Done."
    error = {"description": "Refused or failed.", "content": {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}}
    return {"200": {"description": says, "content": {JSON: {"schema": schema}}}, "default": error}


def _tag(service: ServiceDescriptorProto) -> str:
    return service.name.removesuffix("Service")


def _error() -> dict[str, Any]:
    return {
        "type": "object",
        "description": "google.rpc.Status. `details` holds a google.rpc.ErrorInfo whose `reason` a program can act on.",
        "properties": {
            "code": {"type": "integer", "description": "google.rpc.Code"},
            "message": {"type": "string"},
            "details": {"type": "array", "items": {"type": "object", "properties": {"@type": {"type": "string"}}}},
        },
    }


if __name__ == "__main__":
    sys.exit(main())
