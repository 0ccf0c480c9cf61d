"""Quality at equal budget: every trainer on the same activations in the same order, compared at equal L0."""
