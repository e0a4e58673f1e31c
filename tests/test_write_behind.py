import threading

import pytest

from phi3quant.write_behind import WriteBehind

SMALL, LARGE = 1, 1 << 30


def test_work_is_done_in_order_and_all_of_it() -> None:
    done: list[int] = []
    with WriteBehind() as disk:
        for number in range(100):
            disk.submit(lambda number=number: done.append(number), SMALL)  # type: ignore[misc]
    assert done == list(range(100))


def test_small_work_waits_beside_large_and_large_work_for_room() -> None:
    gate = threading.Event()
    begun = threading.Event()

    def hold() -> None:
        begun.set()
        assert gate.wait(10)

    with WriteBehind() as disk:
        disk.submit(hold, SMALL)
        assert begun.wait(10)
        disk.submit(lambda: None, SMALL)  # doesn't wait for the first
        threading.Timer(0.05, gate.set).start()
        disk.submit(lambda: None, LARGE)  # does
        assert gate.is_set()


def test_an_error_comes_at_the_end() -> None:
    with pytest.raises(OSError, match="no space"), WriteBehind() as disk:
        disk.submit(fail, SMALL)


def test_an_error_comes_with_later_work() -> None:
    with WriteBehind() as disk:
        disk.submit(fail, SMALL)
        with pytest.raises(OSError, match="no space"):
            disk.submit(lambda: None, LARGE)


def fail() -> None:
    raise OSError("no space")


def test_after_an_error_elsewhere_what_waits_is_dropped() -> None:
    gate = threading.Event()
    done: list[str] = []
    disk = WriteBehind()
    disk.submit(lambda: done.append("first") if gate.wait(10) else None, SMALL)
    disk.submit(lambda: done.append("second"), SMALL)
    threading.Timer(0.05, gate.set).start()
    disk.__exit__(KeyError, KeyError(), None)
    assert gate.is_set()
    assert "second" not in done
