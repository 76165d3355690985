"""Files that another process reads as soon as they change."""

import json
from pathlib import Path


def write_document(path: Path, document: object) -> None:
    """Replaces a JSON file; a reader sees the old content or the new. The same content again changes nothing."""
    content = json.dumps(document, indent=1, sort_keys=True)
    if path.exists() and path.read_text() == content:
        return
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(content)
    temporary.replace(path)
