"""Completes baskets at most once: preflight checks, one POST, settlement of the outcome, and reconciliation."""
