"""Private joins: what each side prepares, what leaves it, and how a receiver reads the result."""
