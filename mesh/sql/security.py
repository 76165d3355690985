"""Row-level security: the second wall between organisations, behind the authorisation check."""

from sqlalchemy import Table

POLICY = "organization"


def is_tenant_owned(table: Table) -> bool:
    """Whether rows of the table belong to an organisation: they carry `org_id` and did not opt out."""
    return "org_id" in table.c and not table.info.get("every_org", False)


def protection(table: str) -> tuple[str, ...]:
    """The statements that bind a table's rows to the session's `aiops.org`, for its owner too; '*' sees every one.

    Without the setting nothing is seen and nothing can be written.
    """
    visible = "org_id = current_setting('aiops.org', true) OR current_setting('aiops.org', true) = '*'"
    return (
        f'ALTER TABLE "{table}" ENABLE ROW LEVEL SECURITY',
        f'ALTER TABLE "{table}" FORCE ROW LEVEL SECURITY',
        f'CREATE POLICY {POLICY} ON "{table}" USING ({visible}) WITH CHECK ({visible})',
    )
