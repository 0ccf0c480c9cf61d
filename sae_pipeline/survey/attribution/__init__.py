"""The stage `attribution`: attribution against ablation over prompts that the model gets right (rows 52 to 56 and 60)."""
