"""Commands that run without the extra `cli`: `python -m minted_connect demo` and `reconcile`."""
