"""Counts in; metrics, intervals and tests out. It reads no files and imports no other wing."""
