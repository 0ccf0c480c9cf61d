"""Scaling laws of SAEs on the study's own activations (paper, 'Scaling laws')."""
