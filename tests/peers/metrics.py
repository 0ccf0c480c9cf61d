"""Step 2 of comparing metrics, in the environment of the libraries: SAELens's own evals on the same SAE, model and tokens.

    python tests/peers/metrics.py FOLDER        (FOLDER from prepare_metrics.py)

SAELens runs the model through its wrapper of any Hugging Face model. TransformerLens, where it can load the model, must call the
same activations `blocks.L.hook_resid_post`.
"""

import json
import sys
from pathlib import Path

import torch

from sae_pipeline.formats.hooks import hook_of, names_of

WITHIN = 0.01


class Tokens:
    """What SAELens asks of its activation store: the next rows of tokens."""

    def __init__(self, ids_BT: torch.Tensor) -> None:
        self._rows = list(ids_BT)

    def get_batch_tokens(self, n: int) -> torch.Tensor:
        """The next `n` rows."""
        rows, self._rows = self._rows[:n], self._rows[n:]
        return torch.stack(rows)


def main(folder: Path) -> int:
    """Print both sides; returns the number of metrics that differ by more than 1 %."""
    from sae_lens import SAE
    from sae_lens.evals import get_downstream_reconstruction_metrics, get_sparsity_and_variance_metrics
    from sae_lens.load_model import load_model
    from sae_lens.training.activation_scaler import ActivationScaler

    ours = json.loads((folder / "ours.json").read_text())
    ids_BT = torch.load(folder / "tokens.pt", weights_only=True)["ids_BT"]
    sae = SAE.load_from_disk(folder / "sae")
    hook = hook_of(sae.cfg.metadata.hook_name)
    assert hook is not None
    transformer_lens_name, module = names_of(hook)[:2]
    sae.cfg.metadata.hook_name = module
    model = load_model("AutoModelForCausalLM", str(folder / "model"), "cpu", {"dtype": torch.float32}, [module])
    special = sorted(set(model.tokenizer.all_special_ids))
    common = {
        "activation_scaler": ActivationScaler(),
        "eval_batch_size_prompts": 1,
        "n_batches": len(ids_BT),
        "ignore_tokens": special,
    }
    with torch.no_grad():
        quality, _ = get_sparsity_and_variance_metrics(
            sae, model, Tokens(ids_BT), compute_l2_norms=False, compute_sparsity_metrics=True, compute_variance_metrics=True,
            compute_featurewise_density_statistics=False, model_kwargs={}, **common,
        )  # fmt: skip
        spliced = get_downstream_reconstruction_metrics(
            sae, model, Tokens(ids_BT), compute_kl=False, compute_ce_loss=True, **common
        )
    theirs = {
        "l0": quality["l0"], "explained_variance": quality["explained_variance"],
        "ce_their_clean": spliced["ce_loss_without_sae"],
        "ce_their_spliced": spliced["ce_loss_with_sae"], "ce_their_zero": spliced["ce_loss_with_ablation"],
        "ce_recovered_theirs": spliced["ce_loss_score"],
    }  # fmt: skip
    print(f"{ours['n_tokens']} tokens; SAELens ignores {special}")
    off = 0
    for name, value in theirs.items():
        relative = abs(ours[name] - value) / abs(value)
        off += relative > WITHIN
        print(f"{'ok ' if relative <= WITHIN else 'OFF'} {name:<22} ours {ours[name]:.5f}  SAELens {value:.5f}  ({relative:.2e})")
    print(f"by our own definition: CE recovered {ours['ce_recovered']:.5f} on {ours['n_tokens_ce']} tokens")
    check_transformer_lens(folder, transformer_lens_name, module, ids_BT[:1])
    return off


@torch.no_grad()
def check_transformer_lens(folder: Path, name: str, module: str, ids_1T: torch.Tensor) -> None:
    """`name` in TransformerLens is the output of `module` in transformers, on a real forward pass."""
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoModelForCausalLM, AutoTokenizer

    plain = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32, attn_implementation="eager")
    caught: list[torch.Tensor] = []
    handle = plain.get_submodule(module).register_forward_hook(
        lambda _, args, output: caught.append(output[0] if isinstance(output, tuple) else output)
    )
    plain(ids_1T)
    handle.remove()
    hooked = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32, attn_implementation="eager")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    bridge = TransformerBridge.boot_transformers(str(folder / "model"), hf_model=hooked, tokenizer=tokenizer, device="cpu")
    _, cache = bridge.run_with_cache(ids_1T)
    layer = int(name.split(".")[1])
    for other in (layer - 1, layer, layer + 1):
        found = cache[f"blocks.{other}.hook_resid_post"]
        error = float((found - caught[0]).abs().max() / caught[0].abs().max())
        print(f"TransformerLens blocks.{other}.hook_resid_post against the output of {module}: {error:.1e}")
        assert (error < 1e-4) == (other == layer), "off by one"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
