"""Deciding what is done to each weighted op, and saying why."""
