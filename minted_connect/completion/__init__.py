"""Completes baskets exactly once: preflight checks, one POST, settlement of the outcome, and reconciliation."""
