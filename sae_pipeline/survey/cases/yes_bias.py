"""One wrong behaviour found among features and mended by a clamp, with its side effects (registered in `yes_bias.yaml`).

Shapes: P prompts, A arms, T positions, D width, F units, K banks.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sae_pipeline.interpret.explanation_scores import auroc
from sae_pipeline.survey.cases.answers import answer_prompt
from sae_pipeline.survey.cases.clamp_case import FIGURE, Clamped, ClampWorld
from sae_pipeline.survey.cases.clamping import Dose, Prompt
from sae_pipeline.survey.cases.doses import RANDOM_FEATURES, RIVALS, all_doses, best_doses, compared, n_directions
from sae_pipeline.survey.cases.prompts import digest, fill, in_half, load
from sae_pipeline.survey.cases.random_features import with_random_features
from sae_pipeline.survey.measurement import Measurement
from sae_pipeline.survey.thresholds import thresholds

CASE, N_RESAMPLES = "yes_bias", 2000


def balanced_accuracy(log_odds_P: np.ndarray, is_yes_P: np.ndarray) -> float:
    """Mean of the shares of yes-questions answered yes and no-questions answered no."""
    says_yes_P = log_odds_P > 0
    return float((says_yes_P[is_yes_P].mean() + (~says_yes_P[~is_yes_P]).mean()) / 2)


def attribution(found: ClampWorld, prompts: list[Prompt]) -> np.ndarray:
    """f_i times the gradient of log-odds along W_dec,i (paper, 'Features as computational intermediates'), summed over unmasked
    positions and averaged over prompts, of every bank: K x F."""
    lm, banks = found.world.lm, found.clamper.banks
    total_KF = np.zeros((len(banks), banks[0].n_features))
    for prompt in prompts:
        kept: list[Tensor] = []

        def leaf(r_BTD: Tensor, ids_BT: Tensor | None, offset: int, kept: list[Tensor] = kept) -> Tensor:
            kept.append(r_BTD.detach().requires_grad_(True))
            return kept[0]

        with torch.enable_grad(), lm.edited(leaf):
            logits_1TV = lm.model(input_ids=torch.tensor([prompt.ids], device=lm.device), use_cache=False).logits
            log_p_V = logits_1TV[0, -1].float().log_softmax(-1)
            (log_p_V[prompt.says].logsumexp(0) - log_p_V[prompt.against].logsumexp(0)).backward()
        r_TD, gradient = kept[0].detach()[0].float(), kept[0].grad
        assert gradient is not None
        g_TD = gradient[0].float()
        g_TD[0] = 0.0
        g_TD[r_TD.norm(dim=1) > banks[0].config["threshold_norm"]] = 0.0
        for total_F, bank in zip(total_KF, banks, strict=True):
            codes = bank.encode_sparse(r_TD)
            unit_P = codes.feature.long()
            effect_P = codes.value * (g_TD[codes.token] * bank.W_dec_FD[unit_P]).sum(dim=1) / bank.scale
            total_F += np.bincount(unit_P.cpu().numpy(), effect_P.cpu().numpy(), minlength=bank.n_features)
    return total_KF / len(prompts)


def run(found: ClampWorld) -> Clamped:
    """Balanced accuracy on half B before and after, beside rivals; cross-entropy of held-out text as the cost."""
    told, made, world = load(CASE), Clamped(), found.world
    prompts, is_yes = [], []
    for name, answer in (("answer_yes", True), ("answer_no", False)):
        for place, question in enumerate(told[name]):
            turn = fill(told["turn"], question=question)
            prompts.append(answer_prompt(found, turn, "", place, told["yes_words"], told["no_words"], text=question))
            is_yes.append(answer)
    is_yes_P = np.array(is_yes)
    choose_P = np.array([prompt.half == "choose" for prompt in prompts])
    wrong_A = [prompt for prompt, yes in zip(prompts, is_yes, strict=True) if not yes and prompt.half == "choose"]
    candidates = found.beside_random([found.candidates(score_F) for score_F in attribution(found, wrong_A)])
    doses = all_doses(candidates, told["factors"])
    half_A, half_B = ([prompt for prompt in prompts if prompt.half == half] for half in ("choose", "report"))
    odds_AP = found.clamper.effect(half_A, doses, "yes bias: choosing").log_odds_AP
    score_A = np.array([balanced_accuracy(odds_P, is_yes_P[choose_P]) for odds_P in odds_AP])
    held_out = _held_out_texts(found)

    def cost(asked: Sequence[Dose]) -> np.ndarray:
        nats_AT = found.clamper.nats(held_out["choose"], [None, *asked], "yes bias: cost on half A")
        return (nats_AT[1:] - nats_AT[:1]).mean(axis=1)

    taken, _ = best_doses(doses, score_A, cost)
    odds_BP = found.clamper.effect(half_B, [None, *taken], "yes bias: reporting").log_odds_AP
    answers_B = is_yes_P[~choose_P]
    n, first = len(taken), 1 + n_directions(candidates)
    gains = _gains(odds_BP[: 1 + first], answers_B, world.seed)
    beside = _gains(odds_BP[[0, 1, *range(1 + first, 1 + n)]], answers_B, world.seed) if n > first else None
    for place, dose in enumerate(taken):
        made.add_rows(CASE, "debugged_behaviour", half_B, place, dose, odds_BP[0], odds_BP[place + 1])
    nats_AT = found.clamper.nats(held_out["report"], [None, *taken], "yes bias: cost on half B")
    cost_T, rival_cost_RT = nats_AT[1] - nats_AT[0], nats_AT[2:] - nats_AT[0]
    before, after = (balanced_accuracy(odds_BP[arm], answers_B) for arm in (0, 1))
    kept_yes = [float((odds_BP[arm][answers_B] > 0).mean()) for arm in (0, 1)]
    shared = {"size": world.size, "files_sha": digest(CASE), "rows": "case_doses", "figure": FIGURE}
    made.measurements += with_random_features(
        Measurement(
            "debugged_behaviour", "gain of balanced accuracy on held-out yes-no questions by clamping the feature behind `Yes`",
            n_scored=len(half_B), n_attempted=len(prompts), control=RIVALS,
            # What is not there cannot be mended: the fault was registered before the model was asked.
            ceiling_metric="share of the questions with answer no that the unsteered model answers with yes (the fault)",
            ceiling=float((odds_BP[0][~answers_B] > 0).mean()), ceiling_threshold=thresholds().says_yes_wrongly,
            why=f"feature {taken[0].feature} at {taken[0].factor:g} maxima: {before:.2f} before, {after:.2f} after; right on "
            f"questions with answer yes {kept_yes[0]:.2f} before, {kept_yes[1]:.2f} after; AUROC of its log-odds of yes "
            f"{auroc(odds_BP[0], answers_B):.2f}; held-out text costs {cost_T.mean():+.3f} nats",
            **gains, **shared,
        ), beside, RANDOM_FEATURES,
    )  # fmt: skip
    main = Measurement(
        "debugged_behaviour_cost", "cross-entropy of held-out text with the clamp less without, nats per token",
        n_scored=len(cost_T), n_attempted=len(cost_T), control=RIVALS, why="blocks are resampled, and rivals with them",
        **compared(cost_T, rival_cost_RT[: first - 1], world.seed), **shared,
    )  # fmt: skip
    made.add_compared(main, cost_T, rival_cost_RT[first - 1 :], world.seed)
    return made


def _gains(odds_BP: np.ndarray, is_yes_P: np.ndarray, seed: int) -> dict[str, Any]:
    """Gain of the chosen dose and mean gain of the rivals; each resample of the questions (within answers) stands beside one
    rival, as in `doses.compared`."""
    random = np.random.default_rng(seed)
    kinds = [np.flatnonzero(is_yes_P == answer) for answer in (True, False)]

    def gains(at: np.ndarray) -> np.ndarray:
        score_A = np.array([balanced_accuracy(odds_P[at], is_yes_P[at]) for odds_P in odds_BP])
        return score_A[1:] - score_A[0]

    own, apart = [], []
    for _ in range(N_RESAMPLES):
        drawn = gains(np.concatenate([random.choice(kind, len(kind)) for kind in kinds]))
        own.append(drawn[0])
        apart.append(drawn[0] - random.choice(drawn[1:]))
    there = gains(np.arange(len(is_yes_P)))
    edges = [float(edge) for each in (own, apart) for edge in np.percentile(each, [2.5, 97.5])]
    value, control = float(there[0]), float(there[1:].mean())
    return {
        "value": value, "low": edges[0], "high": edges[1], "control_value": control, "difference": value - control,
        "difference_low": edges[2], "difference_high": edges[3],
    }  # fmt: skip


def _held_out_texts(found: ClampWorld) -> dict[str, list[list[int]]]:
    """Some held-out blocks of the corpus, in turn to the halves."""
    corpus, n = found.world.corpus, found.world.settings.cost_blocks
    places = np.flatnonzero(corpus.held_out_B)
    drawn = np.random.default_rng(found.world.seed).permutation(places)[: 2 * n]
    blocks = [corpus.token_ids_BT[place].tolist() for place in drawn]
    return {half: in_half(blocks, half) for half in ("choose", "report")}
