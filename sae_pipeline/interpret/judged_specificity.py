"""Specificity scores by a judge: the paper's rubric on the same held-out windows and arms as the proxy, with a calibration."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from sae_pipeline.interpret.agreement import rank_correlation, weighted_kappa
from sae_pipeline.interpret.judge_calibration import ProxyAgreement, calibrate_judge
from sae_pipeline.interpret.llm_scorers import RUBRIC, Item, WindowJudge
from sae_pipeline.interpret.protocols import Score
from sae_pipeline.interpret.specificity_rows import Arm, specificity_rows
from sae_pipeline.interpret.tokens import TokenTable
from sae_pipeline.interpret.windows import Example
from sae_pipeline.judge.open import AskingJudge
from sae_pipeline.resampling import paired_difference
from sae_pipeline.study import Score as ScoreSettings

N_REPEATED_FEATURES = 20  # features whose windows are rated once more, for the judge's agreement with itself


def judged_specificity(
    size: int, arms: Sequence[Arm], windows: Mapping[int, dict[int, list[Example]]], first_id: Mapping[tuple[int, int], int],
    score: ScoreSettings, tokens: TokenTable, judge: AskingJudge, votes: int, proxy: pl.DataFrame, work: Path,
) -> tuple[pl.DataFrame, dict[str, Any]]:  # fmt: skip
    """(rows of `specificity_scores`, method `rubric-v1-of-<explainer>`; metadata). Writes `judge_calibration.parquet` to `work`.

    `windows` and `first_id` are those of the proxy's rows, so that the two methods meet by example id.
    """
    asked_by = f"specificity_scores/{size}"
    asker = WindowJudge(tokens, judge, RUBRIC, asked_by, score.examples_per_call, score.seed)
    groups = [
        (arm, column, explanation) for arm in arms for column, explanation in zip(arm.columns, arm.explanations, strict=True)
    ]
    shown = [windows[id(arm.units)][column] for arm, column, _ in groups]
    asked = [
        [Item(explanation, example.window(tokens.context)) for example in examples]
        for (_, _, explanation), examples in zip(groups, shown, strict=True)
    ]
    by_vote = [asker.judge_all(asked, vote) for vote in range(votes)]
    scores = [[_median(same) for same in zip(*mine, strict=True)] for mine in zip(*by_vote, strict=True)]
    method = f"{RUBRIC}-of-{next((each.method for _, _, each in groups if each.status == 'ok'), 'none')}"
    table = pl.concat(
        [
            specificity_rows(
                size, arm, column, examples, mine, first_id[id(arm.units), column], method,
                judge.settings.model, judge.settings.plumbing,
            )
            for (arm, column, _), examples, mine in zip(groups, shown, scores, strict=True)
        ]
    )  # fmt: skip
    repeated = [i for i, (arm, _, each) in enumerate(groups) if arm.control == "none" and each.status == "ok"][
        :N_REPEATED_FEATURES
    ]
    # Of a feature looked at closely, the windows that every feature has.
    again = [(i, row) for i in repeated for row, each in enumerate(shown[i]) if each.kind != "close_look"]
    second = asker.judge_all([[asked[i][row] for j, row in again if j == i] for i in repeated], vote=votes)
    metadata, difference_low = _summary(table, score.seed)
    agreement = proxy_agreement(table, proxy)
    askable = sum(len(mine) for (_, _, each), mine in zip(groups, asked, strict=True) if each.status == "ok")
    calibration = calibrate_judge(
        judge, asked_by, [by_vote[0][i][row] for i, row in again], [each for mine in second for each in mine],
        difference_low, table["score"].drop_nulls().len() / askable if askable else 0.0, agreement,
    )  # fmt: skip
    calibration.table(size).write_parquet(work / "judge_calibration.parquet")
    facts: dict[str, Any] = {
        "judge_model": judge.settings.model,
        "judge_passed_calibration": calibration.passed,
        "judge_requests_sent": judge.n_sent,
        "judge_spent_usd": judge.ledger.committed_usd(),
        "judge_n_by_status": dict(table.group_by("status").len().sort("status").iter_rows()),
        "judge_proxy_kappa": agreement.proxy_kappa,
        "judge_proxy_rank_correlation": agreement.proxy_rank_correlation,
        "judge_is_plumbing": judge.settings.plumbing,
    }
    if calibration.passed:
        return table, facts | metadata
    return table, facts | {"judge_withheld_because": "; ".join(calibration.reasons)}


def _median(votes: Sequence[Score]) -> Score:
    """The lower median of the votes that have a value, with that vote's evidence; without any, the first vote's status."""
    answered = sorted((vote for vote in votes if vote.value is not None), key=lambda vote: int(vote.value or 0))
    cost_usd = sum(vote.cost_usd for vote in votes)
    chosen = answered[(len(answered) - 1) // 2] if answered else votes[0]
    return Score(chosen.value, chosen.status, chosen.evidence, cost_usd)


def _summary(table: pl.DataFrame, seed: int) -> tuple[dict[str, Any], float | None]:
    """(means by arm and kind, matched minus shuffled with interval; the difference's lower bound)."""
    ok = table.filter(pl.col("status") == "ok")
    means = ok.group_by("control", "kind").agg(pl.col("score").mean()).sort("control", "kind")
    metadata: dict[str, Any] = {f"judge_mean_{control}_{kind}": value for control, kind, value in means.iter_rows()}
    metadata["judge_n_scored"], metadata["judge_n_attempted"] = ok.height, table.height
    active = ok.filter(pl.col("kind") == "active")
    own = active.filter(pl.col("control") == "none")
    pairs = own.join(active.filter(pl.col("control") == "shuffled").select("example_id", shuffled="score"), on="example_id")
    low = None
    if pairs.height:
        mean, low, high, n = paired_difference(
            pairs["score"].to_numpy(), pairs["shuffled"].to_numpy(), pairs["unit_id"].to_numpy(), seed
        )
        metadata |= {
            "judge_matched_minus_shuffled": mean, "judge_matched_minus_shuffled_low": low,
            "judge_matched_minus_shuffled_high": high, "judge_matched_minus_shuffled_n_features": n,
        }  # fmt: skip
    return metadata, low


def proxy_agreement(table: pl.DataFrame, proxy: pl.DataFrame) -> ProxyAgreement:
    """How far the offline proxy says the same as the judge, on windows under the right explanation that both scored.

    A feature looked at closely counts with the windows that every feature has.
    """
    ours, theirs = (
        rows.filter(pl.col("control") == "none", pl.col("status") == "ok", pl.col("kind") != "close_look").select(
            "example_id", score=pl.col("score")
        )
        for rows in (table, proxy)
    )
    both = ours.join(theirs.rename({"score": "proxy"}), on="example_id")
    judged, by_proxy = (np.asarray(both[name].to_numpy(), int) for name in ("score", "proxy"))
    return ProxyAgreement(both.height, weighted_kappa(judged, by_proxy), rank_correlation(judged, by_proxy))
