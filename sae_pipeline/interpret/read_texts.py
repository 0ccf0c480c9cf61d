"""Which features are active on a text: the study's model reads it, the SAE encodes it, masked tokens are left out."""

from collections.abc import Sequence

import torch

from sae_pipeline.language_model.model import LanguageModel
from sae_pipeline.sae.autoencoder import SparseAutoencoder


def features_of_texts(lm: LanguageModel, sae: SparseAutoencoder, bos: bool, texts: Sequence[str]) -> list[set[int]]:
    """For each text, the features that are active on at least one unmasked token, with the mask of the study's own harvest.

    `bos`: the corpus has a beginning-of-sequence token in front. A text longer than the SAE's training context is cut there.
    """
    found: list[set[int]] = []
    for text in texts:
        ids = lm.tokenize(text, bos=bos)[: int(sae.config["context"])]
        with torch.inference_mode():
            r_ND = lm.residual(torch.tensor([ids]))[0]
            codes = sae.encode_sparse(r_ND)
        masked = [at == 0 or token in lm.special_ids for at, token in enumerate(ids)]
        massive_N = r_ND.float().norm(dim=1).cpu() > sae.config["threshold_norm"]
        kept_N = ~(torch.tensor(masked) | massive_N)
        found.append(set(codes.feature.cpu()[kept_N[codes.token.cpu()]].tolist()))
    return found
