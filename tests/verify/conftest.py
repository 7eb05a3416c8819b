from tests.cli.conftest import environment, minted, sandbox

__all__ = ["environment", "minted", "sandbox"]
