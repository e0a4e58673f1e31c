"""Memory that Linux' control groups leave to this process: limits of containers and services."""

from collections.abc import Iterator, Mapping
from pathlib import Path

_ROOT, _MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
# The files of a group in version 2 and in version 1: the limit, and what is used. The latter counts
# cached pages of files, active ones too, which the kernel gives back as it does for MemAvailable.
_FILES = {
    2: ("memory.max", "memory.current", ("inactive_file", "active_file")),
    1: (
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        ("total_inactive_file", "total_active_file"),
    ),
}


def rooms(root: Path = _ROOT, membership: Path = _MEMBERSHIP) -> list[int]:
    """Bytes that each limit above this process leaves it; none where nothing is limited.

    Args:
        root: where control groups are mounted.
        membership: the file that lists the process's groups.
    """
    return [room for version, group in _groups(root, membership) if (room := _room(version, group))]


def _groups(root: Path, membership: Path) -> Iterator[tuple[int, Path]]:
    """The process's groups and those that they are in, by version."""
    try:
        lines = membership.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if not controllers:
            version, top = 2, root
        elif "memory" in controllers.split(","):
            version, top = 1, root / "memory"
        else:
            continue
        group = top / path.lstrip("/")
        # In a container the path may be the host's, and the group is mounted as the root.
        inside = [group, *group.parents]
        yield from ((version, each) for each in inside if each == top or each.is_relative_to(top))


def _room(version: int, group: Path) -> int | None:
    """Bytes that a group's limit leaves, at least 1; None without a limit."""
    limit_file, usage_file, cached = _FILES[version]
    try:
        # "max", and in version 1 a number near 2^63, for no limit.
        limit = int((group / limit_file).read_text(encoding="ascii"))
        used = int((group / usage_file).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    statistics = _statistics(group)
    held = used - sum(statistics.get(name, 0) for name in cached)
    return max(1, limit - max(0, held))


def _statistics(group: Path) -> Mapping[str, int]:
    try:
        lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
        return {name: int(value) for name, value in (line.split() for line in lines)}
    except (OSError, ValueError):
        return {}
