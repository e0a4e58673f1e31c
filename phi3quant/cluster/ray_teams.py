"""Teams on a Ray cluster: this process and workers on other nodes."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from phi3quant.cluster import parcels
from phi3quant.cluster.connection import (
    connected,
    cpus,
    node_name,
    on_node,
    reason,
    threads_and_nodes,
)
from phi3quant.cluster.hub import Hub
from phi3quant.cluster.nodes import Inquiry, compared
from phi3quant.cluster.ray_team import RayTeam, Worker
from phi3quant.errors import ClusterError, MemberLostError, Phi3QuantError
from phi3quant.model.config import Phi3Config
from phi3quant.notices import notify
from phi3quant.run.assignment import Assignment
from phi3quant.run.shared_work import SharedWork
from phi3quant.source.locate import Located
from phi3quant.team import ALONE, Team
from phi3quant.units import count, size

# Seconds that workers get to start, and to answer once they have started.
_STARTING, _ANSWERING = 180.0, 120.0
# Seconds between questions whether a worker that is waited for is alive.
_ASKING = 30.0


@contextmanager
def ray_teams(
    address: str, workers: int | None = None, threads: int | None = None
) -> Iterator["RayTeams"]:
    """Connect to a cluster, for teams of this process and others.

    Args:
        address: address of a cluster, ``auto`` or ``local``.
        workers: number of members, this process included; None for one on each node.
        threads: threads and CPUs of a member; None for all CPUs of the smallest node.

    Raises:
        MissingExtraError: Ray isn't installed.
        ClusterError: the cluster can't be reached, or is too small.
    """
    with connected(address, "work on Ray") as ray:
        number, nodes = threads_and_nodes(ray, threads)
        before = torch.get_num_threads()
        torch.set_num_threads(number)
        try:
            teams = RayTeams(ray, tuple(nodes), number, workers)
            teams.check_size()
            yield teams
        finally:
            torch.set_num_threads(before)


@dataclass(frozen=True)
class RayTeams:
    """Former of teams; implements phi3quant.run.assignment.Teams.

    Attributes:
        ray: the module, connected to a cluster.
        nodes: nodes with enough CPUs for a member.
        threads: threads and CPUs of a member.
        workers: number of members; None for one on each node.
    """

    ray: Any = field(repr=False)
    nodes: tuple[Mapping[str, Any], ...]
    threads: int
    workers: int | None

    def check_size(self) -> None:
        """Refuse more members than the nodes have CPUs for, and note if there is only one.

        Raises:
            ClusterError: there are too many.
        """
        room = 1 + len(self._places(self.nodes, 0))
        if self.workers is not None and self.workers > room:
            raise ClusterError(
                f"the cluster has room for {count(room, 'worker')} of "
                f"{count(self.threads, 'thread')}, this process included; pass --workers {room}, "
                "or fewer --threads"
            )
        if self.workers is None and room == 1:
            lonely = (
                "the cluster has only this node, so there is nobody to share the work with; "
                "--workers N --threads M starts N processes of M threads here"
            )
            notify([lonely])
        elif not any(self._is_here(node) for node in self.nodes):
            offered = count(self.threads, "CPU")
            weak = (
                f"this machine offers the cluster fewer than {offered}, but takes part like the "
                "others; if it is slower, start the command on one of the nodes"
            )
            notify([weak])

    def prepare(self, located: Located, shared: SharedWork) -> None:
        """See Teams."""
        inquiry = Inquiry(str(Path.cwd()), None, (located,), "cpu")
        notify(compared(self.ray, self.nodes, inquiry, shared))

    @contextmanager
    def formed(self, assignment: Assignment, config: Phi3Config) -> Iterator[Team]:
        """See Teams; only nodes that were compared take part."""
        places = self._present(assignment, config)
        if not places:
            yield ALONE
            return
        parcels.register(self.ray)
        members = 1 + len(places)
        if self.workers is not None and members < self.workers:
            notify([f"only {count(members, 'worker')} of {self.workers} have room or are alive"])
        here = self.ray.get_runtime_context().get_node_id()
        hub = self._actor(Hub, {"NodeID": here}, 0, 1000).remote(members)
        workers = _Workers(self.ray, places)
        try:
            for node in places:
                worker = self._actor(Worker, node, self.threads, 2)
                workers.handles.append(worker.remote(str(Path.cwd())))
            workers.wait_until_started()
            for rank, worker in enumerate(workers.handles, 1):
                workers.running.append(
                    worker.work.remote(assignment, hub, rank, members, self.threads)
                )
            yield RayTeam(
                self.ray,
                hub,
                0,
                members,
                workers.look,
                splits_rows=assignment.splits_rows,
            )
            workers.finish()
        finally:
            for actor in (*workers.handles, hub):
                with suppress(Exception):
                    self.ray.kill(actor)

    def _actor(self, kind: type, node: Mapping[str, Any], cpus_: int, calls: int) -> Any:
        return self.ray.remote(kind).options(
            num_cpus=cpus_,
            max_concurrency=calls,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy=on_node(node),
        )

    def _present(self, assignment: Assignment, config: Phi3Config) -> list[Mapping[str, Any]]:
        """Nodes of the members besides this one, of those that are alive."""
        alive = {node["NodeID"] for node in self.ray.nodes() if node["Alive"]}
        nodes = [node for node in self.nodes if node["NodeID"] in alive]
        wanted = len({node["NodeID"] for node in nodes}) if self.workers is None else self.workers
        if self.workers is None and not any(self._is_here(node) for node in nodes):
            wanted += 1
        need = assignment.memory(config, max(1, wanted))
        fitting = [node for node in nodes if node["Resources"].get("memory", 0) >= need]
        if nodes and not fitting:
            largest = max(node["Resources"].get("memory", 0) for node in nodes)
            raise ClusterError(
                f"a worker needs about {size(need)} of memory, and the largest node of the cluster "
                f"has {size(int(largest))}"
            )
        return self._places(fitting, need)[: wanted - 1]

    def _places(self, nodes: Sequence[Mapping[str, Any]], need: int) -> list[Mapping[str, Any]]:
        """Nodes with room for further members, each as often as it has room, spread evenly."""
        places: list[tuple[int, int, Mapping[str, Any]]] = []
        for number, node in enumerate(nodes):
            room = int(cpus(node) // self.threads)
            if need:
                room = min(room, int(node["Resources"].get("memory", 0) // need))
            # This process takes the first place on its node.
            first = 1 if self._is_here(node) else 0
            places += [(turn, number, node) for turn in range(first, room)]
        return [node for _, _, node in sorted(places, key=lambda place: place[:2])]

    def _is_here(self, node: Mapping[str, Any]) -> bool:
        here: str = self.ray.get_runtime_context().get_node_id()
        return bool(node["NodeID"] == here)


@dataclass
class _Workers:
    """Workers of a team, watched by this process.

    Attributes:
        ray: the module.
        places: node of each.
        handles: handles of the actors.
        running: references to the end of their work.
    """

    ray: Any
    places: Sequence[Mapping[str, Any]]
    handles: list[Any] = field(default_factory=list)
    running: list[Any] = field(default_factory=list)
    _asked: float = field(default_factory=time.monotonic)
    _answers: list[Any] = field(default_factory=list)

    def wait_until_started(self) -> None:
        """Wait for all workers.

        Raises:
            MemberLostError: one doesn't start.
        """
        started = [worker.alive.remote() for worker in self.handles]
        self.ray.wait(started, num_returns=len(started), timeout=_STARTING)
        for node, answer in zip(self.places, started, strict=True):
            try:
                self.ray.get(answer, timeout=0)
            except self.ray.exceptions.GetTimeoutError:
                raise MemberLostError(
                    f"a worker on {node_name(node)} didn't start in {_STARTING:.0f} s; its CPUs "
                    "may be busy with other work"
                ) from None
            except self.ray.exceptions.RayError as error:
                raise MemberLostError(
                    f"a worker on {node_name(node)} didn't start ({reason(error)})"
                ) from None

    def look(self) -> None:
        """Raise the error of a worker that has ended early or doesn't answer.

        Raises:
            MemberLostError: a worker has died.
            Phi3QuantError: error of a worker.
        """
        done, _ = self.ray.wait(self.running, num_returns=len(self.running), timeout=0)
        for reference in done:
            self._raise_error(reference)
        self._ask()

    def finish(self) -> None:
        """Wait for the end of all workers."""
        for reference in self.running:
            while not self.ray.wait([reference], timeout=1)[0]:
                self.look()
            self._raise_error(reference)

    def _raise_error(self, reference: Any) -> None:
        node = self.places[self.running.index(reference)]
        try:
            self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, MemberLostError):
                raise MemberLostError(f"{error.cause}, as {node_name(node)} reports") from None
            if isinstance(error.cause, Phi3QuantError):
                raise error.cause from None
            raise
        except self.ray.exceptions.RayError as error:
            raise MemberLostError(
                f"the worker on {node_name(node)} has died ({reason(error)})"
            ) from None

    def _ask(self) -> None:
        """Ask workers whether they are alive, from time to time.

        Raises:
            MemberLostError: one doesn't answer.
        """
        waited = time.monotonic() - self._asked
        if self._answers:
            done, missing = self.ray.wait(self._answers, num_returns=len(self._answers), timeout=0)
            if missing and waited > _ANSWERING:
                node = self.places[self._answers.index(missing[0])]
                raise MemberLostError(
                    f"the worker on {node_name(node)} hasn't answered for {_ANSWERING:.0f} s"
                )
            if len(done) == len(self._answers):
                self._answers = []
        elif waited > _ASKING:
            self._asked = time.monotonic()
            self._answers = [worker.alive.remote() for worker in self.handles]
