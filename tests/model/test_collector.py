"""Python's collector waits within a context, and is afterwards as it was before."""

import gc
import threading

import pytest
import torch
from torch import nn

import podar
from podar.model.collector import collector_held_back


def test_it_waits_and_goes_on():
    with collector_held_back():
        assert not gc.isenabled()
        with collector_held_back():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_an_exception_turns_it_on_again():
    with pytest.raises(ValueError, match="no"), collector_held_back():
        raise ValueError("no")
    assert gc.isenabled()


def test_whoever_turned_it_off_finds_it_off():
    gc.disable()
    try:
        with collector_held_back():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_threads_that_trace_at_once_leave_it_on():
    model, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)), torch.zeros(1, 3, 9, 9)
    threads = [threading.Thread(target=lambda: [podar.trace(model, x) for _ in range(5)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert gc.isenabled()
