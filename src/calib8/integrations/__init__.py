"""Adapters for other libraries, imported by name only."""
