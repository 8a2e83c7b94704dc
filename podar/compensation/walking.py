"""Runs a model so that it stops before each reading: several models and batches then go through it in step.

Each walk is a forward pass in a thread of its own. Only one thread runs at a time: whoever steps a walk waits for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from podar.compensation.flow import Flow, first_tensor
from podar.compensation.readings import Parameters, Reading, Watch


class _Ended(BaseException):
    """Thrown into a forward pass that nobody will step any further."""


class Walk:
    """A forward pass that stops before each reading. Its random numbers are its own, and depend on the seed alone.

    **Attributes:**

    - `at`: the reading that it stands before; None at its end.
    - `draws`: draws rows for this pass alone.
    - `results`: what the operators gave that `flow` awaits, by their numbers; `taken` frees one.
    """

    def __init__(
        self, model: nn.Module, run: Callable[[nn.Module], Any], parameters: Parameters, flow: Flow, seed: int = 0
    ) -> None:
        self.draws = torch.Generator().manual_seed(seed)
        self._random = torch.Generator().manual_seed(seed).get_state()
        self.at: Reading | None = None
        self.results: dict[int, Tensor] = {}
        self._parameters, self._awaited = parameters, flow.awaited
        self._pass: Callable[[], Any] = lambda: run(model)
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._error: BaseException | None = None
        self._over = self._cancelled = False
        self._number = 0
        self._thread = threading.Thread(target=self._forward, daemon=True, name="podar-walk")
        self._thread.start()

    def step(self) -> Reading | None:
        """Go on to the next reading, which stands in `at`; None where the pass is over.

        **Raises:** `Exception`: whatever the forward pass raised.
        """
        if not self._over:
            self.at = None
            outside = torch.get_rng_state()
            torch.set_rng_state(self._random)
            self._go.release()
            self._stopped.acquire()
            self._random = torch.get_rng_state()
            torch.set_rng_state(outside)
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return self.at

    def taken(self, number: int) -> Tensor | None:
        """What operator `number` gave; it is not kept any longer."""
        return self.results.pop(number, None)

    def close(self) -> None:
        """Stop the pass wherever it stands."""
        self._cancelled = True
        while not self._over:
            self._go.release()
            self._stopped.acquire()
        self._thread.join()
        self.at, self.results = None, {}

    def _forward(self) -> None:
        self._go.acquire()
        try:
            if not self._cancelled:
                with torch.no_grad(), Watch(self._parameters, self._met, self._done):
                    self._pass()
        except _Ended:
            pass
        except BaseException as error:
            self._error = error
        self._over = True
        self._stopped.release()

    def _met(self, reading: Reading) -> None:
        self.at = reading
        self._stopped.release()
        del reading
        self._go.acquire()
        self.at = None
        if self._cancelled:
            raise _Ended

    def _done(self, func: Any, args: tuple[Any, ...], out: Any, reading: Reading | None) -> None:
        if self._number in self._awaited:
            result = first_tensor(out)
            if result is not None:
                self.results[self._number] = result
        self._number += 1
