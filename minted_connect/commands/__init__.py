"""The commands of `python -m minted_connect`."""
