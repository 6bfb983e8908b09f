"""Data for tiny runs, and processes that can be killed."""

import multiprocessing
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # also for the processes that are started here

import tiny_run


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the shards and the vocabulary of the tiny runs."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_run.make_data(folder)
    return folder


@pytest.fixture(scope="session")
def start() -> Callable[..., BaseProcess]:
    """Start a function of tiny_run in a process of its own.

    They are forked from a server that has imported torch already and has no threads: 2 s less each.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["diptych.train.trainer"])

    def begin(function: Callable[..., Any], *args: Any, **kwargs: Any) -> BaseProcess:
        process = context.Process(target=function, args=args, kwargs=kwargs)
        process.start()
        return process

    return begin
