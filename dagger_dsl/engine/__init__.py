"""How a run happens: compiled plans, the run state, the coordinator, reports and handles."""

from dagger_dsl.engine.launch import resume, run, run_async, start, start_resume

__all__ = ["resume", "run", "run_async", "start", "start_resume"]
