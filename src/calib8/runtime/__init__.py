"""Running models: one small context manager per runtime."""
