"""Search by meaning: sentence embeddings of all explanations, made once per set of texts in the background, kept on disk.

Shapes: E distinct texts, H embedding width.
"""

import hashlib
import threading
from pathlib import Path

import numpy as np

from sae_pipeline.browser.database import Cursor
from sae_pipeline.browser.playground import LOADING

N_HITS = 300
BATCH = 128
GRACE_SECONDS = 10  # for the batch under way when the server stops


class MeaningIndex:
    """Embeddings of the explanations of one study. Vectors lie in `folder`, named by the digest of the texts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._embedding = threading.Lock()
        self._embedder = None
        self._worker: threading.Thread | None = None
        self._digest = ""
        self._texts: list[str] = []
        self._vectors_EH: np.ndarray | None = None
        self.n_done = 0
        self.problem = ""

    @property
    def n_texts(self) -> int:
        """How many distinct explanations there are to embed."""
        return len(self._texts)

    def search(self, cursor: Cursor, query: str) -> dict[str, float] | None:
        """{explanation text: similarity} of the nearest N_HITS texts; None while the vectors are being made (see `n_done`)."""
        self._refresh(cursor)
        if self._vectors_EH is None:
            return None
        texts, vectors_EH = self._texts, self._vectors_EH
        with self._embedding:
            query_H = self._embed([query])[0]
        similarity_E = vectors_EH.astype(np.float32) @ query_H
        nearest = np.argsort(-similarity_E, kind="stable")[:N_HITS]
        return {texts[at]: float(similarity_E[at]) for at in nearest}

    def close(self) -> None:
        """Stop embedding after the batch under way: a thread inside torch while the interpreter ends aborts the process."""
        with self._lock:
            self._digest = ""
        if self._worker is not None:
            self._worker.join(GRACE_SECONDS)

    def _refresh(self, cursor: Cursor) -> None:
        """Start over when the texts changed since the last search."""
        texts = [
            row["text"]
            for row in cursor.rows("select distinct text from memory.main.feature_list where text is not null order by text")
        ]
        digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
        with self._lock:
            if digest == self._digest:
                return
            self._digest, self._texts, self.n_done, self.problem = digest, texts, 0, ""
            file = self.folder / f"meaning-{digest}.npy"
            self._vectors_EH = np.load(file, allow_pickle=False) if file.is_file() else None
            if self._vectors_EH is None:
                self._worker = threading.Thread(target=self._make, args=(digest, texts, file), name="embeddings", daemon=True)
                self._worker.start()

    def _make(self, digest: str, texts: list[str], file: Path) -> None:
        parts = []
        try:
            for start in range(0, len(texts), BATCH):
                with self._embedding:
                    parts.append(self._embed(texts[start : start + BATCH]))
                if digest != self._digest:
                    return  # newer texts are on their way
                self.n_done = start + len(parts[-1])
        except Exception as error:
            self.problem = str(error)
            raise
        vectors_EH = np.concatenate(parts).astype(np.float16) if parts else np.empty((0, 1), np.float16)
        self.folder.mkdir(parents=True, exist_ok=True)
        scratch = file.with_suffix(".part.npy")
        np.save(scratch, vectors_EH)
        scratch.replace(file)
        for other in self.folder.glob("meaning-*.npy"):
            if other != file:
                other.unlink()
        with self._lock:
            if digest == self._digest:
                self._vectors_EH = vectors_EH

    def _embed(self, texts: list[str]) -> np.ndarray:
        if self._embedder is None:
            with LOADING:
                from sae_pipeline.interpret.embedding import SentenceEmbedder

                self._embedder = SentenceEmbedder()
        return self._embedder.texts(texts)
