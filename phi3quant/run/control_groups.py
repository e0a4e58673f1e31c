"""Limits of Linux control groups, which containers and services set: memory and computing time."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

_ROOT, _MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_UNIFIED = 2
# Files of a group in versions 2 and 1: its limit, its usage, and statistics of cached pages. The
# usage includes cached pages, even active ones, which the kernel can reclaim (as in MemAvailable).
_FILES = {
    2: ("memory.max", "memory.current", ("inactive_file", "active_file")),
    1: (
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        ("total_inactive_file", "total_active_file"),
    ),
}


def rooms(root: Path = _ROOT, membership: Path = _MEMBERSHIP) -> list[int]:
    """Bytes left by each limit on this process; empty without limits.

    Args:
        root: mount point of control groups.
        membership: file that lists the groups of the process.
    """
    groups = _groups(root, membership, "memory")
    return [room for version, group in groups if (room := _room(version, group))]


def processors(root: Path = _ROOT, membership: Path = _MEMBERSHIP) -> int | None:
    """Processors whose time the limits allow this process, rounded up; None without limits.

    Args:
        root: mount point of control groups.
        membership: file that lists the groups of the process.
    """
    shares = [_share(version, group) for version, group in _groups(root, membership, "cpu")]
    limits = [share for share in shares if share is not None]
    return math.ceil(min(limits)) if limits else None


def _groups(root: Path, membership: Path, controller: str) -> Iterator[tuple[int, Path]]:
    """Groups of the process that a controller limits and their parents, with their versions."""
    try:
        lines = membership.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if not controllers:
            version, top = 2, root
        elif controller in controllers.split(","):
            version, top = 1, root / controller
        else:
            continue
        group = top / path.lstrip("/")
        # In a container the path may be the host's, and the group is mounted as the root.
        inside = [group, *group.parents]
        yield from ((version, each) for each in inside if each == top or each.is_relative_to(top))


def _room(version: int, group: Path) -> int | None:
    """Bytes left by a group's limit, at least 1; None without a limit."""
    limit_file, usage_file, cached = _FILES[version]
    try:
        # Without a limit, version 2 has "max" (a ValueError) and version 1 a number near 2^63.
        limit = int((group / limit_file).read_text(encoding="ascii"))
        used = int((group / usage_file).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    statistics = _statistics(group)
    held = used - sum(statistics.get(name, 0) for name in cached)
    return max(1, limit - max(0, held))


def _share(version: int, group: Path) -> float | None:
    """Processors whose time a group's limit allows; None without a limit."""
    files = ("cpu.max",) if version == _UNIFIED else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    try:
        texts = [(group / name).read_text(encoding="ascii") for name in files]
        # Without a limit, version 2 has "max" (a ValueError) and version 1 has -1.
        quota, period = map(int, " ".join(texts).split())
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 and period > 0 else None


def _statistics(group: Path) -> Mapping[str, int]:
    try:
        lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
        return {name: int(value) for name, value in (line.split() for line in lines)}
    except (OSError, ValueError):
        return {}
