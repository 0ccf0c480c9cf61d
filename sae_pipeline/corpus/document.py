"""A document as it comes from a source, before tokens."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Document:
    """`text` is None when its bytes are no text. Documents of one `group` (translations of one item) stay on one side."""

    text: str | None
    language: str
    title: str
    group: str
