"""The command, as the tests of the command line call it."""

from collections.abc import Callable

import pytest
from tests.cli.conftest import Said, call


@pytest.fixture(scope="session")
def diptych() -> Callable[..., Said]:
    return call
