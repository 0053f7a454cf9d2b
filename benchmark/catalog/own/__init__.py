"""Own code of users: found by import path, entry point or registration, and used as an entry."""
