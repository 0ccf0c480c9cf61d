"""The survey: what the features of all sizes say together, made after the main run."""
