import pytest


@pytest.fixture(scope="session")
def plugins():
    """SGLang with its plugins loaded, as every process of a server loads them."""
    from sglang.srt.plugins import load_plugins

    load_plugins()
