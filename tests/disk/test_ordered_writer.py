import threading

import pytest

from phi3quant.disk.ordered_writer import OrderedWriter, completed

SMALL, LARGE = 1, 1 << 30


def test_all_work_is_done_in_order() -> None:
    done: list[int] = []
    disk = OrderedWriter([], lambda: None)
    for number in range(100):
        disk.submit(lambda number=number: done.append(number), SMALL)  # type: ignore[misc]
    disk.complete()
    assert done == list(range(100))


def test_small_work_is_queued_at_once_and_large_work_waits_for_room() -> None:
    gate, started = threading.Event(), threading.Event()

    def hold() -> None:
        started.set()
        assert gate.wait(10)

    disk = OrderedWriter([], lambda: None)
    disk.submit(hold, SMALL)
    assert started.wait(10)
    disk.submit(lambda: None, SMALL)
    assert not gate.is_set()
    threading.Timer(0.05, gate.set).start()
    disk.submit(lambda: None, LARGE)
    assert gate.is_set()
    disk.complete()


def fail() -> None:
    raise OSError("no space")


def test_an_error_is_raised_at_the_end() -> None:
    disk = OrderedWriter([], lambda: None)
    disk.submit(fail, SMALL)
    with pytest.raises(OSError, match="no space"):
        disk.complete()


def test_an_error_is_raised_when_later_work_is_submitted() -> None:
    disk = OrderedWriter([], lambda: None)
    disk.submit(fail, SMALL)
    with pytest.raises(OSError, match="no space"):
        disk.submit(lambda: None, LARGE)
    disk.abandon()


def test_queued_work_is_dropped_unless_the_whole_is_required() -> None:
    gate = threading.Event()
    done: list[str] = []
    disk = OrderedWriter([], lambda: None)
    disk.submit(lambda: done.append("first") if gate.wait(10) else None, SMALL)
    disk.submit(lambda: done.append("second"), SMALL)
    threading.Timer(0.05, gate.set).start()
    disk.abandon()
    assert gate.is_set()
    assert "second" not in done


def test_parts_come_in_the_announced_order_and_all_of_them() -> None:
    closed: list[str] = []
    with pytest.raises(ValueError, match="expected a, got b"):
        OrderedWriter(["a", "b"], lambda: None).expect("b")
    with pytest.raises(ValueError, match="c was not announced"):
        OrderedWriter([], lambda: None).expect("c")
    order = OrderedWriter(["a", "b"], lambda: closed.append("files"))
    order.expect("a")
    with pytest.raises(ValueError, match="b was never written"):
        order.complete()
    assert closed == ["files"]


def test_an_error_in_the_block_abandons_the_writer_and_closes_its_files() -> None:
    closed: list[str] = []
    with (
        pytest.raises(KeyboardInterrupt),
        completed(OrderedWriter(["a"], lambda: closed.append("files"))),
    ):
        raise KeyboardInterrupt
    assert closed == ["files"]
