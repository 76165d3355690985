"""Why a deployment cannot have an adapter."""

from mesh.errors import DomainError, Kind


class DeploymentStoppedError(DomainError):
    """The deployment was stopped or has failed; nothing can be changed about it any more."""

    kind, reason = Kind.PRECONDITION, "DEPLOYMENT_STOPPED"


class AdaptersUnavailableError(DomainError):
    """The deployment takes no adapters, or no more of them."""

    kind, reason = Kind.PRECONDITION, "ADAPTERS_UNAVAILABLE"


class NotAnAdapterError(DomainError):
    """The model is no LoRA adapter."""

    kind, reason = Kind.INVALID, "NOT_AN_ADAPTER"
