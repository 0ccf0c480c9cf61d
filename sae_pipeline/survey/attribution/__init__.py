"""The stage `attribution`: attribution against ablation over prompts that the model gets right ('Computational intermediates')."""
