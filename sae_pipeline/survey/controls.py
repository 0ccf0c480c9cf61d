"""Controls that could not have come out otherwise. They show that a test can fail, not what chance would give.

Every other control is measured through the same selection as its value.
"""

FAULT, ZERO, CONSTANT, UNSCALED = (
    "a deliberate fault", "zero by construction", "a constant", "the same number without the rescaling"
)  # fmt: skip
BY_CONSTRUCTION: dict[str, str] = {
    "loss_gradient_error": FAULT,
    "schedule_error": FAULT,
    "decomposition_error": FAULT,
    "distinct_documents_per_batch": FAULT,
    "stored_activation_error": FAULT,
    "samples_inside_their_interval": FAULT,
    "clamp_error": FAULT,
    "attribution_finite_difference_error": FAULT,
    "synthetic_recovery": ZERO,  # random rows of 64 dimensions or more never come to a cosine of 0.9
    "few_shot_wins": CONSTANT,
    "half_presence_frequency_ratio": UNSCALED,
}


def by_construction(measurement: str, control: str | None) -> str | None:
    """What kind of control without chance the measurement has; None for a measured control, or for none."""
    return BY_CONSTRUCTION.get(measurement) if control else None
