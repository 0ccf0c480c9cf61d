"""Take SAEs to other tools: a study's SAE into a format, or one format into another. Nothing is left half-written.

Whatever was written is read back by its own reader and must compute the same on a few tokens.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from sae_pipeline.errors import UserError
from sae_pipeline.formats.own import own_origin
from sae_pipeline.formats.published import from_published
from sae_pipeline.formats.raw_sae import RawSae
from sae_pipeline.formats.registry import WRITABLE, format_named
from sae_pipeline.formats.source import local_source
from sae_pipeline.sae.autoencoder import CONFIG, WEIGHTS, SparseAutoencoder
from sae_pipeline.store import ArtifactStore

N_CHECKED = 16  # tokens
TOLERANCE = 1e-4


def export_sae(store: ArtifactStore, size: int, to: str, folder: Path) -> list[str]:
    """Write the study's SAE of `size` features as format `to` into `folder`; returns the file names. Raises `UserError`."""
    artefact = store.require("sae", size)
    raw = study_sae(artefact, f"{store.study.name} sae/{size}")
    if to == "own":
        for name in (WEIGHTS, CONFIG):
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(artefact / name, folder / name)
        return [WEIGHTS, CONFIG]
    return write_checked(raw, to, folder)


def study_sae(artefact: Path, label: str) -> RawSae:
    """The SAE of an artefact folder as raw weights, with what its configuration says about model, hook, context and BOS."""
    return from_published(SparseAutoencoder.load(artefact), own_origin(artefact / CONFIG, label))


def write_checked(raw: RawSae, to: str, folder: Path) -> list[str]:
    """Write `raw` as format `to` and read it back. Raises `UserError` for a format that cannot hold it."""
    write = format_named(to, "--to").write
    if write is None:
        raise UserError("--to", f"{to} can be read, not written", f"Writable: {', '.join(WRITABLE)}.")
    names = write(raw, folder)
    error = largest_difference(raw, format_named(to).read(local_source(folder)))
    if not error <= TOLERANCE:
        raise RuntimeError(f"{to} as written computes something else (relative difference {error:.1e})")
    return names


def largest_difference(one: RawSae, other: RawSae) -> float:
    """Largest relative difference of f ‖W_dec,i‖ and of the reconstruction, on random tokens near the decoder's bias."""
    spread = float(one.b_dec_D.double().std(correction=0)) or 1.0
    noise_ND = torch.randn(N_CHECKED, one.d_model, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    r_ND = one.b_dec_D.double() + spread * noise_ND
    return max(relative(a, b) for a, b in zip(_acts(one, r_ND), _acts(other, r_ND), strict=True))


def relative(one: Tensor, other: Tensor) -> float:
    """Largest absolute difference over the largest value (at least 1)."""
    return float((one - other).abs().max() / other.abs().max().clamp(min=1))


def _acts(raw: RawSae, r_ND: Tensor) -> tuple[Tensor, Tensor]:
    f_NF, r_hat_ND = raw.forward(r_ND)
    return f_NF * raw.W_dec_FD.double().norm(dim=1), r_hat_ND


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A scratch folder beside `out` that takes its name when the block ends well; `out` must be new or empty."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(str(out), "is there already and is not an empty folder", "Give another --out, or empty it.")
    scratch = out.with_name(f".{out.name}.partial")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        yield scratch
        if out.exists():
            out.rmdir()
        scratch.rename(out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
