"""The contract of each kind of entry, as small checks that any entry can be put to."""
