"""Limits that containers and services set are honoured."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from phi3quant.run import control_groups, memory_budget

GIB = 1 << 30
Layout = Mapping[str, str | int]


def written(folder: Path, membership: str, files: Layout) -> Path:
    """The folder of groups, after it and the file ``membership`` are written."""
    for name, content in files.items():
        path = folder / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    (folder / "membership").write_text(membership)
    return folder / "groups"


@pytest.fixture
def rooms(tmp_path: Path) -> Callable[[str, Layout], list[int]]:
    """The rooms for a membership and the files of groups."""

    def found(membership: str, files: Layout) -> list[int]:
        groups = written(tmp_path, membership, files)
        return control_groups.rooms(groups, tmp_path / "membership")

    return found


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/\n", {"memory.max": 2 * GIB, "memory.current": GIB}, [GIB]),
        # The kernel's cache of files makes room at once.
        (
            "0::/\n",
            {
                "memory.max": 2 * GIB,
                "memory.current": GIB,
                "memory.stat": f"anon 5\ninactive_file {GIB}",
            },
            [2 * GIB],
        ),
        # A model that was read twice is in active pages, which make room as well.
        (
            "0::/\n",
            {
                "memory.max": 4 * GIB,
                "memory.current": 4 * GIB,
                "memory.stat": f"anon {GIB}\ninactive_file {GIB}\nactive_file {2 * GIB}",
            },
            [3 * GIB],
        ),
        (
            "5:memory:/\n",
            {
                "memory/memory.limit_in_bytes": 4 * GIB,
                "memory/memory.usage_in_bytes": 3 * GIB,
                "memory/memory.stat": f"total_inactive_file {GIB}\ntotal_active_file {GIB}",
            },
            [3 * GIB],
        ),
        ("0::/\n", {"memory.max": "max", "memory.current": GIB}, []),
        ("0::/\n", {"memory.max": GIB, "memory.current": 2 * GIB}, [1]),
        # A parent's limit counts as well.
        (
            "0::/a/b\n",
            {
                "a/b/memory.max": "max",
                "a/b/memory.current": GIB,
                "a/memory.max": 3 * GIB,
                "a/memory.current": GIB,
            },
            [2 * GIB],
        ),
        # The path is the host's, the group is mounted as the root.
        ("0::/docker/0123\n", {"memory.max": 2 * GIB, "memory.current": GIB}, [GIB]),
        (
            "5:cpu,memory:/x\n3:pids:/y\n",
            {
                "memory/x/memory.limit_in_bytes": 4 * GIB,
                "memory/x/memory.usage_in_bytes": GIB,
                "memory/memory.limit_in_bytes": 9223372036854771712,
                "memory/memory.usage_in_bytes": 0,
            },
            [3 * GIB, 9223372036854771712],
        ),
        ("", {}, []),
        ("nonsense\n:::\n", {"memory.max": "?"}, []),
    ],
)
def test_limits_leave_what_is_not_used(
    membership: str, files: Layout, expected: list[int], rooms: Callable[[str, Layout], list[int]]
) -> None:
    assert rooms(membership, files) == expected


def test_without_control_groups_nothing_is_limited(tmp_path: Path) -> None:
    assert control_groups.rooms(tmp_path / "none", tmp_path / "nothing") == []


def test_the_smallest_limit_is_what_a_run_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_groups, "rooms", lambda: [5 << 20, 7 << 20])
    assert memory_budget.available_memory() == 5 << 20
    monkeypatch.setattr(control_groups, "rooms", list)
    assert memory_budget.available_memory() > 5 << 20


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "200000 100000"}, 2),
        # Half a processor more is worth a thread.
        ("0::/\n", {"cpu.max": "150000 100000"}, 2),
        ("0::/\n", {"cpu.max": "max 100000"}, None),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "50000 100000"}, 1),
        (
            "4:cpu,cpuacct:/x\n",
            {"cpu/x/cpu.cfs_quota_us": 300000, "cpu/x/cpu.cfs_period_us": 100000},
            3,
        ),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": -1, "cpu/cpu.cfs_period_us": 100000}, None),
        ("0::/\n", {"cpu.max": "many"}, None),
        ("5:memory:/\n", {"memory/cpu.max": "100000 100000"}, None),
    ],
)
def test_computing_time_is_limited_to_processors(
    membership: str, files: Layout, expected: int | None, tmp_path: Path
) -> None:
    groups = written(tmp_path, membership, files)
    assert control_groups.processors(groups, tmp_path / "membership") == expected
