"""An ONNX model or engine as LangChain's ``Embeddings``; needs langchain-core.

from calib8.integrations.langchain import Calib8Embeddings

embeddings = Calib8Embeddings("build/mpnet/model.int8.onnx")
store = InMemoryVectorStore.from_texts(texts, embeddings)
"""

from pathlib import Path

from calib8.errors import SetupError, install
from calib8.integrations.sentence_transformers import load
from calib8.runtime.names import CpuRuntime

try:
    from langchain_core.embeddings import Embeddings
except ImportError as error:
    raise SetupError(f"langchain-core is not installed. Install it: {install('langchain')}.") from error


class Calib8Embeddings(Embeddings):
    """Vectors of ``calib8.embed`` for LangChain; the async methods are LangChain's own, on its threads.

    Arguments and errors are those of ``calib8.integrations.sentence_transformers.load``.
    """

    def __init__(
        self,
        artefact: Path | str,
        tokenizer: Path | str | None = None,
        *,
        runtime: CpuRuntime = "auto",
        truncate_dim: int | None = None,
    ) -> None:
        self._encoder = load(artefact, tokenizer, runtime=runtime, truncate_dim=truncate_dim)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """One vector per text, in the order given, with the model's prompt for documents."""
        vectors: list[list[float]] = self._encoder.encode_document(texts).tolist()
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """The vector of a text, with the model's prompt for queries."""
        vector: list[float] = self._encoder.encode_query(text).tolist()
        return vector

    def close(self) -> None:
        """Free the model; calling it twice is fine."""
        self._encoder.close()
