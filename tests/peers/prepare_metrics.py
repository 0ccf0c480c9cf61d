"""Step 1 of comparing metrics, with the project's own interpreter: model, tokens, exported SAE and our numbers in one folder.

    python tests/peers/prepare_metrics.py STUDY DATA SIZE OUT

Held-out blocks without massive activations, so that the masks of both sides are the same tokens: all but special ones. Beside
our definitions, SAELens's own are computed here again where they differ: it zero-ablates special positions too, and counts
tokens whose successor is special.
"""

import json
import sys
from pathlib import Path

import torch

from sae_pipeline.activations.reader import REASONS, ActivationReader
from sae_pipeline.api import OpenStudy
from sae_pipeline.corpus.reader import CorpusReader
from sae_pipeline.formats.export import export_sae
from sae_pipeline.language_model.load import load_language_model
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.sae.metrics import Activity, Reconstruction, next_token_cross_entropy
from sae_pipeline.study import load_study

N_BLOCKS = 12
MASSIVE = REASONS.index("massive")


def main(study_file: str, data: str, size: int, out: Path) -> None:
    """Write everything that step 2 needs into `out`."""
    study = load_study(study_file)
    opened = OpenStudy(study, data)
    model = study.model.model_copy(update={"dtype": "float32"})
    lm = load_language_model(model, study.hook, "cpu")
    corpus = CorpusReader.open(opened.store.path("corpus"))
    reason_BT = ActivationReader.open(opened.store.path("activations")).reason_BT
    held_out_B = torch.from_numpy(corpus.held_out_B)
    chosen = ((reason_BT != MASSIVE).all(1) & held_out_B).nonzero().squeeze(1)
    chosen = chosen[:: max(1, len(chosen) // N_BLOCKS)][:N_BLOCKS]
    ids_BT = torch.from_numpy(corpus.token_ids_BT[chosen.numpy()]).long()
    sae = SparseAutoencoder.load(opened.store.path("sae", size))
    out.mkdir(parents=True, exist_ok=True)
    lm.model.save_pretrained(out / "model")
    lm.tokenizer.save_pretrained(out / "model")
    export_sae(opened.store, size, "saelens", out / "sae")
    torch.save({"ids_BT": ids_BT}, out / "tokens.pt")
    (out / "ours.json").write_text(json.dumps(measure(lm, sae, ids_BT), indent=1))
    print((out / "ours.json").read_text())


@torch.no_grad()
def measure(lm, sae: SparseAutoencoder, ids_BT: torch.Tensor) -> dict[str, float]:
    """L0, explained variance and cross-entropies by our definitions, and by SAELens's where they differ."""
    special_BT = torch.isin(ids_BT, torch.tensor(sorted(lm.special_ids)))
    reconstruction, activity = Reconstruction(sae.d_model), Activity(sae.n_features)
    sums = dict.fromkeys(("clean", "spliced", "zero", "their_clean", "their_spliced", "their_zero"), 0.0)
    n_ours = n_theirs = 0
    for ids_1T, special_1T in zip(ids_BT.split(1), special_BT.split(1), strict=True):
        r_TD, keep_T = lm.residual(ids_1T)[0].float(), ~special_1T[0]
        codes = sae.encode_sparse(r_TD[keep_T])
        r_hat_ND = sae.decode_sparse(codes)
        reconstruction.add(r_TD[keep_T], r_hat_ND)
        activity.add(int(keep_T.sum()), codes.feature)
        spliced_TD, zero_TD = r_TD.clone(), r_TD.clone()
        spliced_TD[keep_T], zero_TD[keep_T] = r_hat_ND, 0.0
        runs = {"clean": r_TD, "spliced": spliced_TD, "zero": zero_TD, "their_zero": torch.zeros_like(r_TD)}
        loss = {
            name: next_token_cross_entropy(lm.logits_from(run[None], ids_1T)[0, :-1], ids_1T[0, 1:]) for name, run in runs.items()
        }
        theirs_T, ours_T = keep_T[:-1], keep_T[:-1] & keep_T[1:]
        n_ours, n_theirs = n_ours + int(ours_T.sum()), n_theirs + int(theirs_T.sum())
        for name in ("clean", "spliced", "zero"):
            sums[name] += float(loss[name][ours_T].sum())
        for name, run in (("their_clean", "clean"), ("their_spliced", "spliced"), ("their_zero", "their_zero")):
            sums[name] += float(loss[run][theirs_T].sum())
    ce = {name: total / (n_theirs if name.startswith("their") else n_ours) for name, total in sums.items()}
    return {
        "n_tokens": activity.n_tokens, "n_tokens_ce": n_ours, "n_tokens_ce_theirs": n_theirs, "l0": activity.l0(),
        "explained_variance": reconstruction.explained_variance(),
        **{f"ce_{name}": value for name, value in ce.items()},
        "ce_recovered": (ce["zero"] - ce["spliced"]) / (ce["zero"] - ce["clean"]),
        "ce_recovered_theirs": (ce["their_zero"] - ce["their_spliced"]) / (ce["their_zero"] - ce["their_clean"]),
    }  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
