"""JSON schemas of Protobuf messages, as ProtoJSON writes them."""

import re
from typing import Any

from buf.validate import validate_pb2
from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet
from google.protobuf.message import Message

Field = FieldDescriptorProto
INTEGERS = {Field.TYPE_INT32, Field.TYPE_UINT32, Field.TYPE_SINT32, Field.TYPE_FIXED32, Field.TYPE_SFIXED32}
# ProtoJSON writes 64-bit integers as strings.
LONGS = {Field.TYPE_INT64, Field.TYPE_UINT64, Field.TYPE_SINT64, Field.TYPE_FIXED64, Field.TYPE_SFIXED64}
WELL_KNOWN: dict[str, dict[str, Any]] = {
    ".google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    ".google.protobuf.Duration": {"type": "string", "pattern": r"^-?\d+(\.\d{1,9})?s$"},
    ".google.protobuf.FieldMask": {"type": "string", "description": "Field names, separated by commas."},
    ".google.protobuf.Struct": {"type": "object"},
    ".google.protobuf.Value": {},
    ".google.protobuf.ListValue": {"type": "array"},
    ".google.protobuf.Any": {"type": "object", "properties": {"@type": {"type": "string"}}},
    ".google.protobuf.Empty": {"type": "object"},
}
NUMBERS = {"int32", "uint32", "double"}
TEXT_LIMITS = {"min_len": "minLength", "max_len": "maxLength", "pattern": "pattern"}
NUMBER_LIMITS = {"gte": "minimum", "lte": "maximum", "gt": "exclusiveMinimum", "lt": "exclusiveMaximum"}
ITEM_LIMITS = {"min_items": "minItems", "max_items": "maxItems"}


def camel(name: str) -> str:
    """A field's name in JSON."""
    return re.sub(r"_([a-z0-9])", lambda match: match[1].upper(), name)


class Schemas:
    """Looks messages up by their full name, and collects the schemas that are referred to in `written`."""

    def __init__(self, descriptors: FileDescriptorSet) -> None:
        self._messages: dict[str, DescriptorProto] = {}
        self._enums: dict[str, EnumDescriptorProto] = {}
        self._comments: dict[str, str] = {}
        self.written: dict[str, dict[str, Any]] = {}
        for file in descriptors.file:
            comments = {
                tuple(at.path): _text(at.leading_comments or at.trailing_comments)
                for at in file.source_code_info.location
            }
            for index, message in enumerate(file.message_type):
                self._index(f"{file.package}.{message.name}", message, (4, index), comments)
            for index, enum in enumerate(file.enum_type):
                self._enums[f"{file.package}.{enum.name}"] = enum
                self._comments[f"{file.package}.{enum.name}"] = comments.get((5, index), "")
            for index, service in enumerate(file.service):
                name = f"{file.package}.{service.name}"
                self._comments[name] = comments.get((6, index), "")
                for number, method in enumerate(service.method):
                    self._comments[f"{name}.{method.name}"] = comments.get((6, index, 2, number), "")

    def comment(self, full_name: str) -> str:
        """The comment of anything that has a full name."""
        return self._comments.get(full_name, "")

    def message(self, kind: str) -> DescriptorProto:
        """The message of a type name."""
        return self._messages[kind.removeprefix(".")]

    def is_message(self, field: FieldDescriptorProto) -> bool:
        """Whether a field holds a message that no query parameter can spell."""
        return field.type == Field.TYPE_MESSAGE and field.type_name not in WELL_KNOWN

    def reference(self, kind: str, without: list[str] | None = None) -> dict[str, Any]:
        """A reference to a message's schema; a schema of its own when fields are left out."""
        if kind in WELL_KNOWN:
            return WELL_KNOWN[kind]
        if without:
            return self._object(kind, without)
        name = _short(kind)
        if name not in self.written:
            self.written[name] = {}
            self.written[name] = self._object(kind, [])
        return {"$ref": f"#/components/schemas/{name}"}

    def field(self, owner: str, field: FieldDescriptorProto) -> dict[str, Any]:
        """A field's schema with its comment and its limits."""
        entry = self._map_entry(field)
        schema = self._single(field)
        rules = field.options.Extensions[validate_pb2.field]
        if entry is not None:
            schema = {"type": "object", "additionalProperties": self._single(entry.field[1])}
        elif field.label == Field.LABEL_REPEATED:
            schema = {"type": "array", "items": schema | _limits(rules.repeated.items)} | _items(rules)
        elif "$ref" not in schema:
            schema = schema | _limits(rules)
        comment = self.comment(f"{owner.removeprefix('.')}.{field.name}")
        return schema | ({"description": comment} if comment else {})

    def _index(
        self, name: str, message: DescriptorProto, path: tuple[int, ...], comments: dict[tuple[int, ...], str]
    ) -> None:
        self._messages[name] = message
        self._comments[name] = comments.get(path, "")
        for number, field in enumerate(message.field):
            self._comments[f"{name}.{field.name}"] = comments.get((*path, 2, number), "")
        for number, nested in enumerate(message.nested_type):
            self._index(f"{name}.{nested.name}", nested, (*path, 3, number), comments)
        for number, enum in enumerate(message.enum_type):
            self._enums[f"{name}.{enum.name}"] = enum
            self._comments[f"{name}.{enum.name}"] = comments.get((*path, 4, number), "")

    def _object(self, kind: str, without: list[str]) -> dict[str, Any]:
        message = self.message(kind)
        fields = [field for field in message.field if field.name not in without]
        schema: dict[str, Any] = {
            "type": "object",
            "properties": {camel(each.name): self.field(kind, each) for each in fields},
        }
        comment = self.comment(kind.removeprefix("."))
        return schema | ({"description": comment} if comment else {})

    def _single(self, field: FieldDescriptorProto) -> dict[str, Any]:
        if field.type == Field.TYPE_MESSAGE:
            return self.reference(field.type_name)
        if field.type == Field.TYPE_ENUM:
            return self._enum(field.type_name)
        if field.type in INTEGERS:
            return {"type": "integer", "format": "int32"}
        if field.type in LONGS:
            return {"type": "string", "format": "int64"}
        if field.type in {Field.TYPE_DOUBLE, Field.TYPE_FLOAT}:
            return {"type": "number"}
        if field.type == Field.TYPE_BOOL:
            return {"type": "boolean"}
        return {"type": "string", "contentEncoding": "base64"} if field.type == Field.TYPE_BYTES else {"type": "string"}

    def _enum(self, kind: str) -> dict[str, Any]:
        name = _short(kind)
        comment = self.comment(kind.removeprefix("."))
        values = [value.name for value in self._enums[kind.removeprefix(".")].value]
        self.written[name] = {"type": "string", "enum": values} | ({"description": comment} if comment else {})
        return {"$ref": f"#/components/schemas/{name}"}

    def _map_entry(self, field: FieldDescriptorProto) -> DescriptorProto | None:
        kind = self._messages.get(field.type_name.removeprefix("."))
        return kind if kind is not None and kind.options.map_entry else None


def _limits(rules: validate_pb2.FieldRules) -> dict[str, Any]:
    text = _given(rules.string)
    found = {keyword: text[name] for name, keyword in TEXT_LIMITS.items() if name in text}
    if "in" in text:
        found["enum"] = list(text["in"])
    for kind in NUMBERS & _given(rules).keys():
        numbers = _given(getattr(rules, kind))
        found |= {keyword: numbers[name] for name, keyword in NUMBER_LIMITS.items() if name in numbers}
    return found


def _items(rules: validate_pb2.FieldRules) -> dict[str, Any]:
    items = _given(rules.repeated)
    return {keyword: items[name] for name, keyword in ITEM_LIMITS.items() if name in items}


def _given(rules: Message) -> dict[str, Any]:
    """The rules that are set, by name."""
    return {field.name: value for field, value in rules.ListFields()}


def _short(kind: str) -> str:
    """`.aiops.nodes.v1.Node.Status` becomes `NodeStatus`."""
    return "".join(part for part in kind.split(".") if part[:1].isupper())


def _text(comment: str) -> str:
    return " ".join(comment.split())
