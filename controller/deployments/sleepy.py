"""Models that may be without an instance, as the inference router needs to know them."""

from dataclasses import dataclass
from datetime import datetime

from mesh.identity import OrgId


@dataclass(frozen=True, slots=True)
class SleepyModel:
    """A model whose last replica may end when nobody asks for it. `standing` says how its replicas stand."""

    org_id: OrgId
    model_name: str
    replica_set_id: str
    hold_seconds: int
    standing: str
    created_at: datetime
