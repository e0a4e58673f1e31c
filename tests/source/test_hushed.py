import os

import pytest

from phi3quant.source.hushed import hushed


def test_output_before_an_error_is_dropped(capfd: pytest.CaptureFixture[str]) -> None:
    def panic() -> None:
        with hushed():
            os.write(2, b"thread panicked at src/lib.rs\n")
            raise RuntimeError("the library panicked")

    for _ in range(2):
        with pytest.raises(RuntimeError):
            panic()
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_output_without_an_error_is_kept(capfd: pytest.CaptureFixture[str]) -> None:
    with hushed():
        os.write(2, b"a notice\n")
    with hushed():
        os.write(2, b"another\n")
    assert capfd.readouterr().err == "a notice\nanother\n"


def test_a_closed_standard_error_is_tolerated() -> None:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(2)
            with hushed():
                code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
