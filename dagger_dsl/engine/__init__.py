"""How a run happens: compiled plans, the run state, the coordinator, reports and handles."""

from typing import TYPE_CHECKING

__all__ = ["resume", "run", "run_async", "start", "start_resume"]

if TYPE_CHECKING:
    from dagger_dsl.engine.launch import resume, run, run_async, start, start_resume
else:  # building a graph needs nothing of what runs it

    def __getattr__(name):
        """Load what starts runs on first use (PEP 562)."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from dagger_dsl.engine import launch

        globals()[name] = value = getattr(launch, name)
        return value
