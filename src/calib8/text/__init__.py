"""Sentences: tokenised, embedded, many of them at a time."""
