"""Sources and corpora as the tests of the corpus spell them."""

import json
from pathlib import Path

from sae_pipeline.study import Corpus, LocalSource


def local(path: Path, tokens: int = 100, **more) -> LocalSource:
    kind = {".jsonl": "jsonl", ".parquet": "parquet", ".txt": "text"}[path.suffix]
    return LocalSource(kind="local", path=str(path), format=kind, tokens=tokens, **more)  # pyright: ignore[reportArgumentType]


def write_jsonl(path: Path, texts: list) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def corpus_of(*sources, **more) -> Corpus:
    return Corpus(sources=list(sources), context=16, held_out=0.25, **more)
