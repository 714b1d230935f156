"""Private lookup: a consumer asks for the record of a key that its holder does not learn."""
