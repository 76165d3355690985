"""A revision: one immutable state of a model's files, named by the digest of its manifest."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from typing import Any

from controller.models.model import Architecture, Model, ModelFormat, ModelId, Source
from mesh.errors import DomainError, Kind
from mesh.identity import OrgId, UserId


class ModelRevisionNotFoundError(DomainError):
    """The model has no such revision."""

    kind, reason = Kind.NOT_FOUND, "MODEL_REVISION_NOT_FOUND"

    def __init__(self, model: str, revision: str) -> None:
        super().__init__(
            f"model {model} has no revision {revision}; GET /models/{model}/revisions lists those there are",
            model=model,
            revision=revision,
        )


@dataclass(frozen=True, slots=True)
class RevisionFacts:
    """What of a model belongs to one state of its files."""

    source: Source
    source_url: str
    model_format: ModelFormat
    size_mb: int
    version: str
    min_gpu_memory: int
    min_vram: int
    parameters: int
    languages: tuple[str, ...]
    license: str
    weights_bytes: int
    architecture: Architecture | None
    tags: tuple[str, ...]
    pickle_allowed: bool

    @staticmethod
    def of(model: Model) -> "RevisionFacts":
        """Those of a model as it is."""
        return RevisionFacts(**{each.name: getattr(model, each.name) for each in fields(RevisionFacts)})


@dataclass(frozen=True, slots=True)
class Revision:
    """One state of a model; `number` counts from 1."""

    model_id: ModelId
    digest: str
    number: int
    org_id: OrgId
    user_id: UserId
    created_at: datetime
    facts: RevisionFacts

    def named(self, name: str) -> bool:
        """Whether a caller may mean this one: by number or by digest."""
        return name in (str(self.number), self.digest)


@dataclass(frozen=True, slots=True)
class RevisionChanged:
    """Another revision of a model is current."""

    revision: Revision
    changed_by: UserId
    at: datetime


def revision_of(model: Model, number: int) -> Revision:
    """The model's present state as a revision."""
    facts = RevisionFacts.of(model)
    return Revision(model.model_id, model.digest, number, model.org_id, model.user_id, model.changed_at, facts)


def at_revision(model: Model, revision: Revision, now: datetime) -> Model:
    """The model with that revision current."""
    facts: dict[str, Any] = {each.name: getattr(revision.facts, each.name) for each in fields(RevisionFacts)}
    return replace(model, **facts, digest=revision.digest, changed_at=now)


def facts_to_json(facts: RevisionFacts) -> dict[str, Any]:
    """The facts as plain values."""
    return {**asdict(facts), "source": facts.source.value, "model_format": facts.model_format.value}


def facts_from_json(values: Mapping[str, Any]) -> RevisionFacts:
    """The facts that `facts_to_json` wrote."""
    architecture = values["architecture"]
    return RevisionFacts(
        **{
            **{each.name: values[each.name] for each in fields(RevisionFacts)},
            "source": Source(values["source"]),
            "model_format": ModelFormat(values["model_format"]),
            "languages": tuple(values["languages"]),
            "tags": tuple(values["tags"]),
            "architecture": Architecture(**architecture) if architecture else None,
        }
    )
