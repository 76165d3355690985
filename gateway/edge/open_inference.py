"""The gRPC service of the Open Inference Protocol, as far as the edge reads it: where each call names its model.

Protocol: https://github.com/open-inference/open-inference-protocol, "open_inference_grpc.proto". Field 1 of every
request that names a model is its name; all other bytes pass as they are.
"""

import base64
from functools import cache

from google.protobuf import descriptor_pb2

from gateway.edge.messages import typed

SERVICE = "inference.GRPCInferenceService"
# What asks about one model. All else, such as loading models, sharing memory and tracing, changes or shows the server.
CALLS = {
    "ModelInfer": ("ModelInferRequest", "model_name"),
    "ModelStreamInfer": ("ModelInferRequest", "model_name"),
    "ModelReady": ("ModelReadyRequest", "name"),
    "ModelMetadata": ("ModelMetadataRequest", "name"),
    "ModelConfig": ("ModelConfigRequest", "name"),
    "ModelStatistics": ("ModelStatisticsRequest", "name"),
}
STREAMING = frozenset({"ModelStreamInfer"})


def extraction() -> dict[str, object]:
    """The filter that reads the model's name out of the first message of a call, into dynamic metadata."""
    return typed(
        "envoy.extensions.filters.http.grpc_field_extraction.v3.GrpcFieldExtractionConfig",
        descriptor_set={"inline_bytes": base64.b64encode(_descriptors()).decode()},
        extractions_by_method={
            f"{SERVICE}.{name}": {"request_field_extractions": {field: {}}} for name, (_, field) in CALLS.items()
        },
    )


@cache
def _descriptors() -> bytes:
    file = descriptor_pb2.FileDescriptorProto(name="open_inference.proto", package="inference", syntax="proto3")
    for kind, field in sorted(set(CALLS.values())):
        file.message_type.add(name=kind).field.add(
            name=field,
            number=1,
            type=descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
            label=descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL,
        )
    file.message_type.add(name="Answer")
    service = file.service.add(name=SERVICE.partition(".")[2])
    for name, (kind, _) in sorted(CALLS.items()):
        streams = name in STREAMING
        service.method.add(
            name=name,
            input_type=f".inference.{kind}",
            output_type=".inference.Answer",
            client_streaming=streams,
            server_streaming=streams,
        )
    return descriptor_pb2.FileDescriptorSet(file=[file]).SerializeToString(deterministic=True)
