"""Injects faults into requests: finds the fault that matches a request, and runs it.

`active_faults` holds the faults that were added; `fault_effects` and `fault_response_edits` define what each one does.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from .active_faults import Fault, Faults
from .clock import Clock, wait_elapsed
from .exchange import FaultContext
from .fault_registry import REGISTRY
from .router import Response

__all__ = ["FaultInjector"]


class FaultInjector:
    """Injects the faults of one sandbox, and runs what they delay."""

    def __init__(self, faults: Faults, clock: Clock) -> None:
        self._faults = faults
        self._clock = clock
        self._tasks: set[asyncio.Task[Any]] = set()

    async def inject(self, context: FaultContext, *, before_auth: bool) -> web.Response | None:
        """Run the fault that matches a request, and return its response; None if no fault matches."""
        fault = self._match(context, before_auth=before_auth)
        if fault is None:
            return None
        context.fault = fault
        if context.entry:
            context.entry.fault = fault.kind
        # A fault may wait without a limit: its task is cancelled when the sandbox closes.
        task = asyncio.ensure_future(_run(fault, context))
        self._tasks.add(task)
        try:
            return await task
        finally:
            self._tasks.discard(task)
            if not context.is_deferred:
                self._faults.finish(fault)

    def run_later(self, seconds: float, work: Callable[[], Awaitable[object]], fault: Fault | None) -> None:
        """Run `work` after some seconds of the shop's time, unless `cancel` is called before."""

        async def wait_and_run() -> None:
            await wait_elapsed(self._clock, seconds)
            await work()

        def finish(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if fault is not None:
                self._faults.finish(fault)

        task = asyncio.ensure_future(wait_and_run())
        self._tasks.add(task)
        task.add_done_callback(finish)

    def cancel(self) -> list[asyncio.Task[Any]]:
        """Cancel the faults in progress and what they delay; return their tasks."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        return tasks

    def _match(self, context: FaultContext, *, before_auth: bool) -> Fault | None:
        if not self._faults:
            return None
        request = context.request
        path = request.raw_path.partition("?")[0]
        return self._faults.match(request.method, path, before_auth=before_auth)


async def _run(fault: Fault, context: FaultContext) -> web.Response:
    found = REGISTRY[fault.kind]
    if found.is_edit:
        edited: Response = found.function(await context.process(), **fault.args)
        return context.respond(edited)
    response: web.Response = await found.function(context, **fault.args)
    return response
