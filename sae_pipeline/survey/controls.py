"""Controls that could not have come out otherwise. They show that a test can fail, not what chance would give.

Every other control is measured through the same selection as its value.
"""

FAULT, ZERO, CONSTANT, UNSCALED, UNTOLD, NO_CLAMP = (
    "a deliberate fault", "zero by construction", "a constant", "the same number without the rescaling",
    "one half is what no information comes to", "without any clamp there is nothing to spoil",
)  # fmt: skip
BY_CONSTRUCTION: dict[str, str] = {
    "loss_gradient_error": FAULT,
    "schedule_error": FAULT,
    "clipping_error": FAULT,
    "initialisation_error": FAULT,
    "decomposition_error": FAULT,
    "distinct_documents_per_batch": FAULT,
    "stored_activation_error": FAULT,
    "samples_inside_their_interval": FAULT,
    "sample_rank_distance": FAULT,
    "clamp_error": FAULT,
    "attribution_finite_difference_error": FAULT,
    "attribution_finite_difference_largest_error": FAULT,
    "synthetic_recovery": ZERO,  # random rows of 64 dimensions or more never come to a cosine of 0.9
    "novel_features_recurring": ZERO,  # nor do random rows, with each other: the largest cosine is half of what is asked
    "cross_seed_share": ZERO,
    "few_shot_wins": CONSTANT,
    "half_presence_frequency_ratio": UNSCALED,
}
# Of measurements that may have another control, too, which would be a measured one.
ONLY_BESIDE: dict[tuple[str, str], str] = {
    ("explanation_balanced_accuracy", "shuffled"): UNTOLD,
    ("repetition_at_100", "unsteered"): NO_CLAMP,
}


def by_construction(measurement: str, control: str | None) -> str | None:
    """What kind of control without chance the measurement has; None for a measured control, or for none."""
    if control is None:
        return None
    return BY_CONSTRUCTION.get(measurement) or ONLY_BESIDE.get((measurement, control))
