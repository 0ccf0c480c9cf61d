"""Ways of steering beside each other: features, directions from examples, prompts (paper, appendix; Wu et al. 2025, AxBench)."""
