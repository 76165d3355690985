"""The schema of the first version."""

from alembic import op

from controller.tables import all_tables
from mesh.sql.security import is_tenant_owned, protection

revision = "0001"
down_revision = None


def upgrade() -> None:
    metadata = all_tables()
    metadata.create_all(op.get_bind())
    for table in metadata.sorted_tables:
        if is_tenant_owned(table):
            for statement in protection(table.name):
                op.execute(statement)


def downgrade() -> None:
    all_tables().drop_all(op.get_bind())
