import threading

import pytest

from phi3quant.disk.write_behind import WriteBehind

SMALL, LARGE = 1, 1 << 30


def test_all_work_is_done_in_order() -> None:
    done: list[int] = []
    disk = WriteBehind()
    for number in range(100):
        disk.submit(lambda number=number: done.append(number), SMALL)  # type: ignore[misc]
    disk.finish(whole=True)
    assert done == list(range(100))


def test_small_work_is_queued_at_once_and_large_work_waits_for_room() -> None:
    gate, started = threading.Event(), threading.Event()

    def hold() -> None:
        started.set()
        assert gate.wait(10)

    disk = WriteBehind()
    disk.submit(hold, SMALL)
    assert started.wait(10)
    disk.submit(lambda: None, SMALL)
    assert not gate.is_set()
    threading.Timer(0.05, gate.set).start()
    disk.submit(lambda: None, LARGE)
    assert gate.is_set()
    disk.finish(whole=True)


def fail() -> None:
    raise OSError("no space")


def test_an_error_is_raised_at_the_end() -> None:
    disk = WriteBehind()
    disk.submit(fail, SMALL)
    with pytest.raises(OSError, match="no space"):
        disk.finish(whole=True)


def test_an_error_is_raised_when_later_work_is_submitted() -> None:
    disk = WriteBehind()
    disk.submit(fail, SMALL)
    with pytest.raises(OSError, match="no space"):
        disk.submit(lambda: None, LARGE)
    disk.finish(whole=False)


def test_queued_work_is_dropped_unless_the_whole_is_required() -> None:
    gate = threading.Event()
    done: list[str] = []
    disk = WriteBehind()
    disk.submit(lambda: done.append("first") if gate.wait(10) else None, SMALL)
    disk.submit(lambda: done.append("second"), SMALL)
    threading.Timer(0.05, gate.set).start()
    disk.finish(whole=False)
    assert gate.is_set()
    assert "second" not in done
