"""Shuffle buffers at an equal window, each fed with the same chunks: a step is one batch served (and what refilling it costs).

Options: `window`, rows held. A chunk is 4,096 rows, as of one batch of the language model. Which rows a buffer serves first is
its own affair, so the guard is only that it serves rows that it was given: `share_given`.

Shapes: N rows, D width.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.setting import Spec, settings_of
from sae_pipeline.sae.source import RingStream

CHUNK = 4096


def share_given(served_ND: Tensor, given_ND: np.ndarray) -> float:
    """Share of the rows of a batch that are, in their first values, rows of the data to the last bit."""
    served_N, given_N = (np.ascontiguousarray(x_ND[:, :4]).view("S16").ravel() for x_ND in (served_ND.numpy(), given_ND))
    return float(np.isin(served_N, given_N).mean())


class _Rows:
    """A reader whose stored rows repeat: what the ring asks of `ActivationReader`."""

    is_streamed = True

    def __init__(self, x_ND: np.ndarray) -> None:
        self._x_ND = torch.from_numpy(x_ND)
        self.d_model = x_ND.shape[1]

    def token_index(self, split: str) -> Tensor:
        return torch.arange(2**20)

    def by_shard(self, index_N: Tensor) -> list[Tensor]:
        return list(index_N.split(len(self._x_ND)))

    def gather(self, index_N: Tensor) -> Tensor:
        return self._x_ND.clone() if len(index_N) == len(self._x_ND) else self._x_ND[index_N % len(self._x_ND)]

    def scaled(self, r_ND: Tensor) -> Tensor:
        return r_ND


class Ring:
    """Ours."""

    def __init__(self, spec: Spec, x_ND: np.ndarray) -> None:
        window = (spec.options or {})["window"]
        self._given_ND = x_ND
        self._stream = RingStream(_Rows(x_ND), spec.shape.batch, window, 0)  # pyright: ignore[reportArgumentType]
        self.config = {"window": window}

    def step(self, x_ND: Tensor) -> None:
        """One batch."""
        self._stream.next()

    def mse(self, x_ND: Tensor) -> float:
        """Not an error: `share_given` of a batch."""
        return share_given(self._stream.next(), self._given_ND)


class MixingBuffer:
    """SAELens `mixing_buffer`."""

    def __init__(self, spec: Spec, x_ND: np.ndarray) -> None:
        from importlib.metadata import version

        from sae_lens.training.mixing_buffer import mixing_buffer

        window = (spec.options or {})["window"]
        self._given_ND = x_ND
        self._batches = mixing_buffer(window, spec.shape.batch, _chunks(x_ND), mix_fraction=0.5)
        self.config = {"version": version("sae-lens"), "buffer_size": window, "mix_fraction": 0.5, "chunk": CHUNK}

    def step(self, x_ND: Tensor) -> None:
        """One batch."""
        next(self._batches)

    def mse(self, x_ND: Tensor) -> float:
        """Not an error: `share_given` of a batch."""
        return share_given(next(self._batches), self._given_ND)


class ActivationBuffer:
    """dictionary_learning's `ActivationBuffer`, its language model replaced by one that returns chunks."""

    def __init__(self, spec: Spec, x_ND: np.ndarray) -> None:
        from importlib.metadata import version

        from dictionary_learning.buffer import ActivationBuffer as Buffer

        window, chunks = (spec.options or {})["window"], _chunks(x_ND)
        mask = torch.ones(CHUNK // 128, 128, dtype=torch.int64)

        def saved(value: Any) -> Any:
            return SimpleNamespace(value=value)

        class Output:
            def save(self):
                return saved(next(chunks).reshape(CHUNK // 128, 128, -1))

            def stop(self):
                pass

        model = SimpleNamespace(
            trace=lambda *_, **__: nullcontext(), dtype=torch.float32, config=SimpleNamespace(hidden_size=spec.shape.d_model),
            inputs=SimpleNamespace(save=lambda: saved(((), {"attention_mask": mask}))),
        )  # fmt: skip
        self._given_ND = x_ND
        self._buffer: Any = Buffer(
            iter(lambda: "", None), model, SimpleNamespace(output=Output()), d_submodule=spec.shape.d_model, io="out",
            n_ctxs=window // 128, ctx_len=128, refresh_batch_size=CHUNK // 128, out_batch_size=spec.shape.batch, device="cpu",
        )  # fmt: skip
        self.config = {"version": version("dictionary-learning")} | settings_of(self._buffer)

    def step(self, x_ND: Tensor) -> None:
        """One batch."""
        next(self._buffer)

    def mse(self, x_ND: Tensor) -> float:
        """Not an error: `share_given` of a batch."""
        return share_given(next(self._buffer), self._given_ND)


def _chunks(x_ND: np.ndarray) -> Iterator[Tensor]:
    rows_ND, first = torch.from_numpy(x_ND), 0
    while True:
        yield rows_ND[first : first + CHUNK]
        first = (first + CHUNK) % len(rows_ND)


SHUFFLES = {"our ring": Ring, "SAELens mixing_buffer": MixingBuffer, "dictionary_learning buffer": ActivationBuffer}
