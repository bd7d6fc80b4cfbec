"""How far the runs within a run of another process have come, by their records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from dagger_dsl.cli.course import Course
from dagger_dsl.engine.story import graph_now
from dagger_dsl.errors import RunNotFound
from dagger_dsl.store.news import read_graph, read_inside, read_news
from dagger_dsl.views.stored import nested_in

if TYPE_CHECKING:
    from dagger_dsl.engine.pulse import Pulse
    from dagger_dsl.model.graph import Graph
    from dagger_dsl.store.database import Database

__all__ = ["Inside"]

#: So many runs are followed at a time; a display has no room for more.
_MOST: Final = 10

#: Entries of a record that are read at once; the rest comes the next time.
_PIECE: Final = 10_000


@attrs.define
class _Followed:
    """A run that is followed: its graph and course, and the last entry that is known."""

    graph: Graph
    course: Course
    last: int = 0


class Inside:
    """Follows the runs that are directly in a run, as long as they go on.

    Args:
        database: Where they are recorded.
        run_id: The run around them.
    """

    def __init__(self, database: Database, run_id: str) -> None:
        self._database = database
        self._run_id = run_id
        self._followed: dict[str, _Followed] = {}

    def look(self, *, keyed: bool) -> dict[str, Pulse]:
        """Return how they stand, by the node that they are in.

        Args:
            keyed: Whether those of single invocations are among them: those of a machine's cycles
                are, while the items of a map are counted as they end.

        Raises:
            StoreError: They cannot be read now.
        """
        running = read_inside(self._database, self._run_id, _MOST)
        self._followed = {each: self._followed[each] for each in running if each in self._followed}
        found: dict[str, Pulse] = {}
        for run_id in reversed(running):  # the newest one of a node counts
            node_id, key = nested_in(run_id, self._run_id)
            if not key or keyed:
                try:
                    found[node_id] = self._pulse(run_id)
                except RunNotFound:  # deleted since
                    continue
        return found

    def _pulse(self, run_id: str) -> Pulse:
        followed = self._followed.get(run_id)
        news = read_news(self._database, run_id, followed.last if followed else 0, _PIECE)
        if followed is None:
            graph, _ = read_graph(self._database, run_id)
            followed = _Followed(graph, Course(run_id, graph, news))
            self._followed[run_id] = followed
        if news.commands:
            followed.graph = graph_now(followed.graph, news.commands)
            followed.course.grow(followed.graph)
        followed.course.take_in(news)
        followed.last = news.last
        return followed.course.take()
