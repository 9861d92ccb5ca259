"""Embeddings over HTTP, as OpenAI's clients ask for them, and model repositories for Triton Inference Server."""
