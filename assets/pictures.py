"""Pictures in metadata: the Dagster UI shows a Markdown image with its bytes inside."""

import base64

import dagster as dg


def picture(png: bytes) -> dg.MarkdownMetadataValue:
    """A PNG as metadata."""
    return dg.MetadataValue.md(f"![figure](data:image/png;base64,{base64.b64encode(png).decode()})")
