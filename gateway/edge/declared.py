"""Messages of Envoy's that the package of its Python classes lacks, declared as Envoy's own files have them.

Only a cluster's: Envoy finds its kind by the type. A filter's may as well come by its JSON names, see `untyped`.
"""

from google.protobuf import descriptor_pb2, descriptor_pool

_TEXT, _MESSAGE = descriptor_pb2.FieldDescriptorProto.TYPE_STRING, descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
_ONE, _MANY = descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL, descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED
COMPOSITE = "envoy.extensions.clusters.composite.v3"


def declare() -> None:
    """Makes them known, so that `@type` finds them. Can be repeated."""
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{COMPOSITE.replace('.', '/')}/cluster.proto", package=COMPOSITE, syntax="proto3"
    )
    config = file.message_type.add(name="ClusterConfig")
    entry = config.nested_type.add(name="ClusterEntry")
    entry.field.add(name="name", number=1, type=_TEXT, label=_ONE)
    kind = f".{COMPOSITE}.ClusterConfig.ClusterEntry"
    config.field.add(name="clusters", number=1, type=_MESSAGE, type_name=kind, label=_MANY)
    descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
