"""Usage: a read model in SQLite, projected from the event stream, and its queries."""
