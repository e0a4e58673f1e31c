import signal

import pytest

from phi3quant.disk.shield import uninterrupted


def test_signals_are_deferred_until_a_protected_step_is_done() -> None:
    done = []

    def step() -> None:
        with uninterrupted():
            for _ in range(2):
                signal.raise_signal(signal.SIGINT)
            done.append("all of it")

    with pytest.raises(KeyboardInterrupt):
        step()
    assert done == ["all of it"]
