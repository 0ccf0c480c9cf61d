"""The Python API for notebooks and scripts: models, SAEs, features of a text, steering. PyTorch only; no Dagster, no server.

    from sae_pipeline.api import open_study, steer

    demo = open_study("studies/demo.yaml")
    lm, sae = demo.lm, demo.sae(16384)
    with steer(lm, sae, {1234: 2.0}):
        print(demo.answer("What is your physical form?"))

Shape legend: T tokens, D model width, F features.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import polars as pl
import torch
from torch import Tensor

from sae_pipeline.errors import UserError
from sae_pipeline.language_model.load import load_language_model
from sae_pipeline.language_model.model import LanguageModel
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.steering.interventions import Intervention, Mode, Positions, pushes
from sae_pipeline.store import ArtifactStore
from sae_pipeline.study import Study, load_study


class StudySae(SparseAutoencoder):
    """An SAE of a study, which also knows every feature's training maximum (`max_activation_F`): the unit of steering factors."""

    max_activation_F: Tensor


class ActiveFeature(NamedTuple):
    """One feature on one token. `explanation` is None where the study has none."""

    position: int
    token: str
    feature: int
    activation: float
    explanation: str | None


class OpenStudy:
    """The finished artefacts of a study. The model and the SAEs are loaded when first asked for."""

    def __init__(self, study: Study, data_root: Path | str = "data", device: str = "cpu") -> None:
        self.study, self.device = study, device
        self.store = ArtifactStore(study, data_root)
        self._saes: dict[int, StudySae] = {}

    @cached_property
    def lm(self) -> LanguageModel:
        """The study's language model with its hook."""
        return load_language_model(self.study.model, self.study.hook, self.device)

    def sae(self, size: int) -> StudySae:
        """The SAE with `size` features. Raises `UserError` when the study has no such size or it was not trained yet."""
        if size not in self._saes:
            self._saes[size] = self._load_sae(size)
        return self._saes[size]

    def _load_sae(self, size: int) -> StudySae:
        if size not in self.study.sae.sizes:
            raise UserError("size", f"this study has no SAE of {size} features", f"Its sizes are {self.study.sae.sizes}.")
        plain = SparseAutoencoder.load(self.store.require("sae", size), self.device)
        sae = StudySae(plain.weights, plain.config)
        table = self.store.require("feature_stats", size) / "features.parquet"
        facts = pl.read_parquet(table, columns=["feature", "max_activation"])
        sae.max_activation_F = torch.zeros(size)
        sae.max_activation_F[facts["feature"].to_list()] = torch.tensor(facts["max_activation"].to_list(), dtype=torch.float32)
        return sae

    def explanations(self, size: int) -> dict[int, str]:
        """{feature: explanation in words}; empty where features have not been explained."""
        file = self.store.path("explanations", size) / "explanations.parquet"
        if not file.is_file():
            return {}
        ours = (pl.col("unit") == "sae_feature") & (pl.col("control") == "none") & (pl.col("status") == "ok")
        columns = ["unit", "control", "status", "feature", "text", "plumbing"]
        rows = pl.read_parquet(file, columns=columns).filter(ours, ~pl.col("plumbing"))
        return dict(zip(rows["feature"].to_list(), rows["text"].to_list(), strict=True))

    def residual(self, text: str) -> Tensor:
        """Raw activations r_TD at the hook, with the study's own policy for the beginning-of-sequence token."""
        return self.lm.residual(torch.tensor([self._tokens(text)]))[0]

    def features_of(self, text: str, size: int, top: int = 3) -> list[ActiveFeature]:
        """The `top` strongest features of every token. Masked tokens (the first, specials, massive activations) have none."""
        sae, ids, r_TD = self.sae(size), self._tokens(text), self.residual(text)
        explanations, found = self.explanations(size), []
        f_TF = sae.encode(r_TD)
        massive_T = r_TD.float().norm(dim=1) > sae.config["threshold_norm"]
        for position, token_id in enumerate(ids):
            if position == 0 or massive_T[position] or token_id in self.lm.special_ids:
                continue
            value, feature = f_TF[position].topk(min(top, size))
            for activation, i in zip(value.tolist(), feature.tolist(), strict=True):
                if activation > 0:
                    token = self.lm.decode([token_id])
                    found.append(ActiveFeature(position, token, i, activation, explanations.get(i)))
        return found

    def answer(self, prompt: str, max_new_tokens: int = 60, temperature: float = 0.7, seed: int = 0) -> str:
        """The model's answer to one chat turn. Inside `steer` it is steered; with equal seeds only the steering differs."""
        return self.lm.decode(self.lm.generate([self.lm.chat(prompt)], max_new_tokens, temperature, [seed])[0])

    def _tokens(self, text: str) -> list[int]:
        return self.lm.tokenize(text, bos=self.study.corpus.bos == "prepend")


def open_study(study_file: Path | str, data_root: Path | str = "data", device: str = "cpu") -> OpenStudy:
    """Open the artefacts that `sae-pipeline run` made for a study file. Raises `UserError` when the file is not a valid study."""
    return OpenStudy(load_study(study_file), data_root, device)


@contextmanager
def steer(
    lm: LanguageModel, sae: StudySae, factors: Mapping[int, float], mode: Mode = "clamp", positions: Positions = "not_massive"
) -> Iterator[None]:
    """Inside the block every forward of `lm` is steered: {feature: factor}, in multiples of the feature's training maximum.

    Factor 0 switches a clamped feature off. Raises `UserError` for features that the SAE does not have or that were never
    active in training: they have no maximum to multiply.
    """
    with lm.edited(steering(lm, sae, factors, mode, positions)):
        yield


def steering(lm: LanguageModel, sae: StudySae, factors: Mapping[int, float], mode: Mode, positions: Positions) -> Intervention:
    """The intervention behind `steer`, for `lm.generate(edit=...)`."""
    for feature in factors:
        if not 0 <= feature < sae.n_features:
            raise UserError("feature", f"{feature} is not one of this SAE's features", f"Name one of 0 to {sae.n_features - 1}.")
        if not sae.max_activation_F[feature] > 0:
            raise UserError("feature", f"{feature} was never active in training", "Choose a feature that is alive.")
    values = {feature: factor * float(sae.max_activation_F[feature]) for feature, factor in factors.items()}
    rows = [pushes(values, mode, sae.n_features)]
    return Intervention(sae, rows, sae.config["threshold_norm"], positions, lm.device)
