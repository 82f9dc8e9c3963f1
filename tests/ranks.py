"""Processes that form a group, for the tests of several ranks."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

Worker = Callable[..., None]


def run(worker: Worker, ranks: int, *args: Any) -> None:
    """Call `worker(rank, *args)` on each of some ranks; what one of them raises is raised.

    A worker is a function of a module of `tests` that can be imported: processes find it by name.
    """
    # The process that the ranks are copies of imports torch, once for all tests.
    mp.get_context("forkserver").set_forkserver_preload(["ranks", "straightthrough"])
    host = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    mp.start_processes(
        _start, (worker, ranks, host.port, args), nprocs=ranks, start_method="forkserver"
    )


def _start(rank: int, worker: Worker, ranks: int, port: int, args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ["RANK"], os.environ["WORLD_SIZE"] = str(rank), str(ranks)
    store = dist.TCPStore("127.0.0.1", port)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
    try:
        worker(rank, *args)
    finally:
        dist.destroy_process_group()
