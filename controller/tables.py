"""Every table of the platform, for migrations."""

import importlib
from pathlib import Path

from sqlalchemy import MetaData

from mesh.sql import tables

_MODULES = ["mesh.sql.idempotency", "mesh.events.outbox", "mesh.events.consumer"]


def all_tables() -> MetaData:
    """The metadata with every room's tables in it."""
    root = Path(__file__).resolve().parent
    rooms = [f"controller.{store.parent.name}.{store.stem}" for store in sorted(root.glob("*/*store.py"))]
    for module in [*_MODULES, *rooms]:
        if (root.parent / (module.replace(".", "/") + ".py")).exists():
            importlib.import_module(module)
    return tables.metadata
