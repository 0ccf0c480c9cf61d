"""The language-model judge: one question in, one recorded answer out, never paid twice.

Belongs here: transports (interactive, batches, local servers), the ledger, prices and the spending cap, reading of replies.
Stays out: what is asked. Prompts, explainers and scorers live in `sae_pipeline.interpret`.
"""
