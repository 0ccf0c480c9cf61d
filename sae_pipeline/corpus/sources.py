"""Documents of any source, in an order drawn from the seed: built-in texts, local files, hub data sets (streamed)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sae_pipeline.corpus.builtin import BUILTIN
from sae_pipeline.corpus.document import Document
from sae_pipeline.errors import UserError
from sae_pipeline.inputs import local_files
from sae_pipeline.study import BuiltinSource, HubSource, LocalSource, Source

SHUFFLE_ROWS = 10_000  # a stream is shuffled within a window of this many rows


def read_documents(source: Source, seed: int) -> Iterator[Document]:
    """Every document of `source`, once, shuffled by `seed`. Raises `UserError` when the source cannot be opened."""
    if isinstance(source, BuiltinSource):
        documents = list(BUILTIN[source.name]())
        for index in np.random.default_rng(seed).permutation(len(documents)):
            yield documents[index]
        return
    for number, row in enumerate(_rows(source, seed)):
        yield _document_of(source, row, number)


def _document_of(source: HubSource | LocalSource, row: dict[str, Any], number: int) -> Document:
    text = row.get("text" if isinstance(source, LocalSource) and source.format == "text" else source.text)
    if isinstance(text, str) and "�" in text:  # what a failed decoding leaves behind
        text = None
    elif text is None:
        text = ""
    title = row.get("title") or row.get("url") or row.get("id") or f"{source.label} {number}"
    language = row.get("language") if source.language == "unknown" else None
    name = str(title)
    return Document(text if text is None else str(text), str(language or source.language), name, f"{source.label} {number}")


def _rows(source: HubSource | LocalSource, seed: int) -> Iterator[dict[str, Any]]:
    import datasets
    from datasets.exceptions import DatasetsError

    field = f"corpus.sources.{source.label}"
    try:
        if isinstance(source, HubSource):
            data: Any = datasets.load_dataset(
                source.id, source.config, split=source.split, revision=source.revision, streaming=True
            )  # fmt: skip
        else:
            data = _local(source, local_files(source))
        yield from data.shuffle(seed=seed, buffer_size=SHUFFLE_ROWS)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
        if isinstance(source, HubSource):
            raise UserError(
                f"{field}.id", f"{source.id!r} (split {source.split!r}) cannot be read from the Hugging Face hub ({reason})",
                "Check id, config, split and connection; a gated or private data set needs its licence accepted and HF_TOKEN.",
            ) from error  # fmt: skip
        raise UserError(
            f"{field}.path", f"{source.path!r} is not readable as {source.format} ({reason})", "Mend file or format."
        ) from error


def _local(source: LocalSource, files: list[Path]) -> Any:
    import datasets

    names = [str(file) for file in files]
    loader, options = {
        "parquet": ("parquet", {}),
        # Named this way the loader decodes first and then honours `encoding_errors`; as "utf-8" it stops at a broken byte.
        "jsonl": ("json", {"encoding": "utf_8", "encoding_errors": "replace"}),
        "text": ("text", {"encoding_errors": "replace", "sample_by": "document"}),
    }[source.format]
    return datasets.load_dataset(loader, data_files=names, split="train", streaming=True, **options)
