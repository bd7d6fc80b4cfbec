"""What survives: the database, the artifact files, one run's values, and the codec for all of them.

Import the modules; this package itself loads nothing, so that a run in memory pays for no store.
"""
