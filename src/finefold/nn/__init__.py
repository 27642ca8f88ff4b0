"""The only rooms that know torch."""
