"""The data of feature pages, ours and sae-dashboard's: 1,024 features of the same SAE on the same 262,144 activations.

Both sides read activations that are there already; the language model never runs. Both give, for every feature, density,
histogram or interval populations, the strongest examples (20) and 5 of each of 10 intervals with their windows, and the tokens it
promotes and suppresses. sae-dashboard goes through all tokens for every 128 features: a step is 128 features on all tokens, and
eight steps are the job. Ours is done in the last of eight steps.

Shapes: B prompts, T positions, N tokens, D width, F features, V vocabulary.
"""

import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from bench.setting import Spec, initial_decoder

CONTEXT, VOCABULARY = 128, 49_152
N_STEPS, STEP_FEATURES = 8, 128
N_TOP, N_PER_INTERVAL, WINDOW, N_LOGITS = 20, 5, 5, 10
HOOK = "blocks.0.hook_resid_post"


def _tokens(n_tokens: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, VOCABULARY, (n_tokens // CONTEXT, CONTEXT))


def _unembedding(d_model: int) -> Tensor:
    return torch.randn(d_model, VOCABULARY, generator=torch.Generator().manual_seed(0))


class OurPages:
    """`write_feature_stats` for the first 1,024 features: all files of the stage."""

    def __init__(self, spec: Spec, x_ND: np.ndarray) -> None:
        from sae_pipeline.sae.autoencoder import SparseAutoencoder

        shape = spec.shape
        W_FD, n = torch.from_numpy(initial_decoder(shape, spec.seed)), N_STEPS * STEP_FEATURES
        zeros_F, zeros_D = torch.zeros(shape.n_features), torch.zeros(shape.d_model)
        weights = {
            "W_enc_FD": W_FD,
            "b_enc_F": zeros_F,
            "W_dec_FD": W_FD,
            "b_dec_D": zeros_D,
            "threshold_F": zeros_F,
            "mean_D": zeros_D,
        }
        self._sae = _First(SparseAutoencoder(weights, {"scale": 1.0, "architecture": "topk", "k": shape.k}), n)
        self._x_ND, self._n = torch.from_numpy(x_ND), 0
        ids_BT = _tokens(len(x_ND))
        self._corpus = SimpleNamespace(
            token_ids_BT=ids_BT, doc_ids_BT=np.repeat(np.arange(len(ids_BT)), CONTEXT).reshape(ids_BT.shape), context=CONTEXT,
            token_text=[f"t{i}" for i in range(VOCABULARY)],
        )  # fmt: skip
        self._unembedding_DV, self._folder = _unembedding(shape.d_model), Path(tempfile.mkdtemp(prefix="bench-"))
        self.config = {"features": n, "n_top": N_TOP, "n_per_interval": N_PER_INTERVAL, "window": WINDOW, "n_logits": N_LOGITS}

    def step(self, x_ND: Tensor) -> None:
        """Nothing, and in every eighth step everything."""
        self._n += 1
        if self._n % N_STEPS == 0:
            self._write()

    def _write(self) -> Path:
        from sae_pipeline.features.write import write_feature_stats
        from sae_pipeline.study import Features

        settings = Features(n_top=N_TOP, n_per_interval=N_PER_INTERVAL, window=WINDOW, n_logits=N_LOGITS)
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()
        given: tuple[Any, ...] = (self._corpus, _Reader(self._x_ND), self._sae, self._unembedding_DV)
        write_feature_stats(*given, settings, self._sae.n_features, self._folder)
        return self._folder

    def mse(self, x_ND: Tensor) -> float:
        """Not an error but one number of density and maximum of the first 128 features: equal if they are."""
        import polars as pl

        rows = pl.read_parquet(self._write() / "features.parquet").head(STEP_FEATURES)
        return _check(rows["density"].to_numpy(), rows["max_activation"].to_numpy())


class _First:
    """An SAE of which only the first features are asked for; it encodes all, because the k largest are among all."""

    def __init__(self, sae: Any, n: int) -> None:
        self._sae, self.n_features, self.W_dec_FD = sae, n, sae.W_dec_FD[:n]

    def encode_sparse(self, r_ND: Tensor) -> Any:
        codes = self._sae.encode_sparse(r_ND)
        kept = codes.feature < self.n_features
        counts = torch.bincount(codes.token[kept], minlength=len(r_ND))
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
        return SimpleNamespace(offsets=offsets, feature=codes.feature[kept], value=codes.value[kept])


class _Reader:
    """What the pass asks of `ActivationReader`: every token is a training token."""

    neuron_ids: ClassVar[list[int]] = []

    def __init__(self, x_ND: Tensor) -> None:
        self._x_ND, self.d_model = x_ND, x_ND.shape[1]

    def token_index(self, split: str) -> Tensor:
        return torch.arange(len(self._x_ND) if split == "train" else 0)

    def stream(self, split: str, batch_tokens: int, neurons: bool):
        for index_N in self.token_index(split).split(batch_tokens):
            yield index_N, self._x_ND[index_N], self._x_ND[index_N, :0]


class SaeDashboard:
    """`SaeVisRunner.run` with its cache of activations filled; minibatches and layout are its defaults."""

    def __init__(self, spec: Spec, x_ND: np.ndarray) -> None:
        from importlib.metadata import version

        from sae_dashboard.sae_vis_data import SaeVisConfig
        from sae_lens import HookedSAETransformer
        from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig
        from transformer_lens import HookedTransformerConfig

        shape = spec.shape
        self._sae = TopKSAE(
            TopKSAEConfig(d_in=shape.d_model, d_sae=shape.n_features, k=shape.k, rescale_acts_by_decoder_norm=True, device="cpu")
        )
        W_FD = torch.from_numpy(initial_decoder(shape, spec.seed))
        self._sae.W_enc.data.copy_(W_FD.T)
        self._sae.W_dec.data.copy_(W_FD)
        config = HookedTransformerConfig(
            n_layers=1, d_model=shape.d_model, n_ctx=CONTEXT, d_head=64, n_heads=9, d_mlp=64, d_vocab=VOCABULARY, act_fn="relu",
            device="cpu", seed=0,
        )  # fmt: skip
        self._model = HookedSAETransformer(config)
        self._model.unembed.W_U.data.copy_(_unembedding(shape.d_model))
        self._tokens, self._n, self._config = torch.from_numpy(_tokens(len(x_ND))), 0, SaeVisConfig
        self._folder = Path(tempfile.mkdtemp(prefix="bench-"))
        prompts = SaeVisConfig(HOOK, []).minibatch_size_tokens  # its name says tokens
        for i, part_ND in enumerate(torch.from_numpy(x_ND).split(prompts * CONTEXT)):
            torch.save({HOOK: part_ND.unflatten(0, (-1, CONTEXT)).clone()}, self._folder / f"model_activations_{i}.pt")
        vis = self._vis_config([]).to_dict() | {"features": f"{STEP_FEATURES} a step", "cache_dir": "filled beforehand"}
        for layout in ("feature_centric_layout", "prompt_centric_layout"):
            del vis[layout]["columns"]  # where on the page the parts stand, as objects without a value
        self.config = {
            "version": version("sae-dashboard"), "minibatch_prompts": prompts, "vis": vis, "sae": vars(self._sae.cfg).copy(),
            "model": config.to_dict(),
        }  # fmt: skip

    def _vis_config(self, features: list[int]) -> Any:
        return self._config(HOOK, features, minibatch_size_features=STEP_FEATURES, cache_dir=self._folder)

    def step(self, x_ND: Tensor) -> None:
        """128 features on all tokens."""
        from sae_dashboard.sae_vis_runner import SaeVisRunner

        first = self._n % N_STEPS * STEP_FEATURES
        features = list(range(first, first + STEP_FEATURES))
        self._last = SaeVisRunner(self._vis_config(features)).run(self._sae, self._model, self._tokens)
        self._n += 1

    def mse(self, x_ND: Tensor) -> float:
        """The number of `OurPages.mse`."""
        self._n = 0
        self.step(x_ND)
        return _check(np.array(self._last.feature_stats.frac_nonzero), np.array(self._last.feature_stats.max))


def _check(density_F: np.ndarray, max_F: np.ndarray) -> float:
    weights = np.random.default_rng(1).random(len(density_F))
    return float((weights * (100 * density_F + max_F)).sum())


DASHBOARDS = {"our pages": OurPages, "sae-dashboard": SaeDashboard}
