"""A planted dictionary: activations that are sparse sums of known directions, behind the interface of `ActivationReader`."""

import torch
from torch import Tensor


class PlantedActivations:
    """Tokens in two splits; each is a sum of a few of `n_directions` random unit directions, plus a mean."""

    def __init__(self, n_tokens: int = 4096, d_model: int = 32, n_directions: int = 48, n_active: int = 3, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.direction_QD = torch.nn.functional.normalize(torch.randn(n_directions, d_model, generator=generator), dim=1)
        which_NA = torch.rand(n_tokens, n_directions, generator=generator).topk(n_active, dim=1).indices
        strength_NA = 1 + torch.rand(n_tokens, n_active, generator=generator)
        r_ND = torch.einsum("na,nad->nd", strength_NA, self.direction_QD[which_NA])
        self._r_ND = r_ND + 0.02 * torch.randn(n_tokens, d_model, generator=generator) + 0.5
        self._train_N = torch.arange(n_tokens) % 4 != 0
        train_ND = self._r_ND[self._train_N]
        self.d_model, self.context, self.threshold_norm = d_model, 16, 100.0
        self.mean_D = train_ND.mean(0)
        self.scale = float((d_model / (train_ND - self.mean_D).square().sum(1).mean()).sqrt())
        self.is_streamed, self.document_of_token = False, torch.arange(n_tokens) // 100

    def token_index(self, split: str, masked: bool = False) -> Tensor:
        return (self._train_N if split == "train" else ~self._train_N).nonzero().squeeze(1)

    def by_shard(self, token_index_N: Tensor) -> list[Tensor]:
        return list(token_index_N.split(700))

    def gather(self, token_index_N: Tensor) -> Tensor:
        return self._r_ND[token_index_N]

    def scaled(self, r_ND: Tensor) -> Tensor:
        return self.scale * (r_ND.float() - self.mean_D)
