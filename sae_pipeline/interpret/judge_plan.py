"""What asking the judge would take: calls, tokens and dollars, before it is asked.

The questions are made (`planned_questions.py`) and some of each prompt are counted: with the study's tokenizer, or by the judge's
own server, which is free, if that is asked for. What earlier calls took is better than either.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import hypot

from sae_pipeline.errors import UserError
from sae_pipeline.interpret.planned_questions import Load, assumed_loads, counted_loads, merged, sample_of
from sae_pipeline.interpret.token_estimate import Tokens, by_bytes, usage_by_prompt
from sae_pipeline.judge.calls import read_calls
from sae_pipeline.judge.count import CannotCount, HomeCounter, ServerCounter, TokenCounter
from sae_pipeline.judge.key import Key
from sae_pipeline.judge.open import HOSTED, ledger_folder, price_for
from sae_pipeline.judge.open import key_of as judge_key
from sae_pipeline.judge.prices import NANO_PER_USD
from sae_pipeline.judge.probe import probe
from sae_pipeline.judge.reply import Usage
from sae_pipeline.judge.request import OFFICIAL_API, Capabilities, Settings, wire_bytes
from sae_pipeline.store import ArtifactStore
from sae_pipeline.study import Judge

MIN_SEEN = 20  # calls with a prompt after which they say what the next ones take
# Relative errors that no sample shows: answers of another length, a size whose features nobody has seen, earlier calls.
ERROR_OF_ANSWERS, ERROR_OF_ASSUMED, ERROR_OF_SEEN = 0.3, 0.3, 0.05
ANSWER_BYTES = 4_000  # of typical answers, counted as one text


@dataclass(frozen=True)
class JudgePlan:
    """Everything that the plan prints about the judge; dollars are expectations, the cap is what holds."""

    backend: str
    model: str
    n_calls: int
    n_tokens_input: int
    n_tokens_output: int
    error: float
    """Expected relative error of all tokens together."""
    usd: float
    usd_batch: float
    prices_of: str
    spent_usd: float
    budget_usd: float | None
    how: tuple[str, ...]
    """Where the numbers come from, in words."""


def plan_judge(
    store: ArtifactStore, sizes: Sequence[int], n_tokens: Callable[[str], int], ask_server: bool = False
) -> JudgePlan | None:
    """The plan for the stages of `sizes`, answers that the ledger may already hold not subtracted; None without a judge.

    `n_tokens` counts a text with the study's tokenizer; `ask_server`: let the judge's server count some questions. Raises
    `UserError` for a model without a price and for a key that the server refuses.
    """
    section = store.study.judge
    if section.backend == "none":
        return None
    assert section.model is not None
    price, calls = price_for(section), read_calls(ledger_folder(store.root))
    key = judge_key(section)
    how: list[str] = []
    ask_server = ask_server and bool(sizes)
    settings, trouble = _settings(section, key if ask_server else None)
    missing = [size for size in sizes if not (store.path("feature_stats", size) / "features.parquet").is_file()]
    loads = [load for size in missing for load in assumed_loads(store.study, size, settings)]
    loads += [load for size in sizes if size not in missing for load in counted_loads(store, size, settings)]
    seen = usage_by_prompt(calls, section.model, MIN_SEEN)
    unseen = [load for load in loads if load.prompt not in seen]
    known = [load for load in merged(loads) if load.prompt in seen]
    server = ServerCounter(key, settings) if ask_server and key and trouble is None else None
    home = HomeCounter(n_tokens, settings)
    try:
        counted = [_count(load, server or home, settings) for load in merged(unseen)]
    except CannotCount as problem:
        server, trouble = None, str(problem)
        counted = [_count(load, home, settings) for load in merged(unseen)]
    n_in = sum(tokens.n for tokens, _ in counted) + sum(seen[load.prompt][0] * load.n_bytes for load in known)
    n_out = sum(out for _, out in counted) + sum(seen[load.prompt][1] * load.n_calls for load in known)
    if counted:
        how.append(_counted_by(server, settings) if server else _counted_at_home(key, ask_server, trouble, settings))
        how.append("answers assumed to be as long as the prompts ask for")
    if known:
        how.append("lengths as in earlier calls")
    if missing:
        how.append(f"nothing is known of size {', '.join(f'{size:,}' for size in missing)} yet: an ordinary number of windows")
    if key is None:
        how.append("there is no key: nothing will be asked")
    unseen_in, unseen_out = sum(tokens.n for tokens, _ in counted), sum(out for _, out in counted)
    assumed = _share(loads, sum(load.n_bytes for load in loads if load.is_assumed))
    errors = [
        hypot(*(tokens.error for tokens, _ in counted)), (server or home).error * (unseen_in + unseen_out),
        ERROR_OF_ANSWERS * unseen_out, ERROR_OF_ASSUMED * assumed * (n_in + n_out),
        ERROR_OF_SEEN * (n_in + n_out - unseen_in - unseen_out),
    ]  # fmt: skip
    usage = Usage(round(n_in), round(n_out))
    # Summed as if it were one call, so the surcharge for long prompts must not apply: no single call here is long.
    flat = replace(price, long_prompt_above_tokens=None)
    return JudgePlan(
        section.backend, section.model, round(sum(load.n_calls for load in loads)), usage.input, usage.output,
        hypot(*errors) / max(n_in + n_out, 1), flat.cost_nano(usage) / NANO_PER_USD,
        flat.cost_nano(usage, batch=True) / NANO_PER_USD, price.as_of, float(calls["cost_usd"].sum()), section.budget_usd,
        tuple(how),
    )  # fmt: skip


def _settings(section: Judge, key: Key | None) -> tuple[Settings, str | None]:
    """How questions will be asked; for a local server, and only if it may be asked, by probing it (else: without schemas)."""
    model, url = section.model or "", section.base_url or OFFICIAL_API
    if section.backend != "local":
        return Settings(model, HOSTED, url, section.effort, section.thinking), None
    try:
        found, trouble = (probe(url, model, key).capabilities, None) if key else (None, None)
    except UserError as error:
        found, trouble = None, error.what
    return Settings(model, found or Capabilities(structured=False, batches=False, temperature=True), url, effort=None), trouble


def _count(load: Load, counter: TokenCounter, settings: Settings) -> tuple[Tokens, float]:
    """(tokens in, tokens out) of a load."""
    sample = sample_of(load, counter.n_sampled, settings)
    n_bytes = [wire_bytes(request.wire(settings)) for request in sample]
    said = "\n".join(load.said)
    said = said * (1 + ANSWER_BYTES // len(said.encode())) if len(said) < ANSWER_BYTES else said[:ANSWER_BYTES]
    per_byte = counter.text(said) / len(said.encode())
    return by_bytes(counter.questions(sample), n_bytes, load.n_bytes), per_byte * load.n_answer_bytes


def _share(loads: Sequence[Load], n_bytes: float) -> float:
    return n_bytes / max(sum(load.n_bytes for load in loads), 1)


def _counted_by(server: ServerCounter, settings: Settings) -> str:
    return (
        f"{server.n_sent} texts counted by {settings.base_url}, which is free (they went there, as --count-tokens asks; "
        "without it nothing is sent)"
    )


def _counted_at_home(key: Key | None, ask_server: bool, trouble: str | None, settings: Settings) -> str:
    estimate = f"tokens estimated with the study's own tokenizer (the judge's may need {HomeCounter.error:.0%} more or less)"
    if key is None:
        return f"{estimate}, for want of a key"
    if ask_server:
        return f"{estimate}: {settings.base_url} does not count ({trouble})"
    return (
        f"{estimate}; nothing was sent. --count-tokens lets {settings.base_url} count some of the texts (free): then within 10%, "
        f"as after {MIN_SEEN} calls with each prompt"
    )


def show(plan: JudgePlan) -> str:
    """Two lines for the terminal: what is asked and costs, and how the numbers were found."""
    dollars = f"about {plan.usd:.2f} dollars interactive, {plan.usd_batch:.2f} in batches (prices of {plan.prices_of})"
    cap = f"; cap {plan.budget_usd:g} dollars, {plan.spent_usd:.2f} spent so far" if plan.budget_usd else ""
    if plan.backend == "local":
        dollars = "0 dollars (a local server)"
    return (
        f"{plan.model} ({plan.backend}): {plan.n_calls:,} calls, {plan.n_tokens_input / 1e6:.3f} M tokens in and "
        f"{plan.n_tokens_output / 1e6:.3f} M out, expected within ± {plan.error:.0%}; {dollars}{cap}\n"
        f"         {'; '.join(plan.how)}"
    )
