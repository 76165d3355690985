"""What the migrations make is what the stores expect, and every tenant's rows stand behind row-level security."""

from sqlalchemy import text

from controller.tables import all_tables
from mesh.identity import SYSTEM, Caller, CallerKind, OrgId
from mesh.sql.database import Database
from mesh.sql.security import is_tenant_owned

_SECURITY = text("SELECT relname FROM pg_class WHERE relrowsecurity AND relforcerowsecurity AND relkind = 'r'")
STRANGER = Caller(CallerKind.USER, "user-x", OrgId("org-without-anything"))


async def test_every_table_of_tenants_is_bound_by_row_level_security(database: str) -> None:
    pool = Database(database, pool_size=1)
    async with pool.reading(SYSTEM) as connection:
        bound = set(await connection.scalars(_SECURITY))
    await pool.dispose()
    assert bound == {table.name for table in all_tables().sorted_tables if is_tenant_owned(table)}


async def test_a_stranger_sees_no_row_of_any_tenant(database: str) -> None:
    pool = Database(database, pool_size=1)
    tables = [table for table in all_tables().sorted_tables if is_tenant_owned(table)]
    async with pool.reading(STRANGER) as connection:
        seen = [table.name for table in tables if (await connection.execute(table.select().limit(1))).first()]
    await pool.dispose()
    assert seen == []


async def test_the_role_of_the_services_is_no_superuser(database: str) -> None:
    pool = Database(database, pool_size=1)
    async with pool.reading(SYSTEM) as connection:
        role = text("SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user")
        bypasses = (await connection.execute(role)).scalar_one()
    await pool.dispose()
    assert bypasses is False
