"""The whole recipe."""
