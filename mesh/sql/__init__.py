"""PostgreSQL: connections bound to an organisation, shared columns, pages, repeated requests."""
