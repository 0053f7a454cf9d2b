"""Counts in, metrics, intervals and tests out; knows no files and imports no other wing."""
