"""What was used: folded from the event stream into SQLite, and asked for there."""
