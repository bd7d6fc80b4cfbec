"""Where node functions run. A runner takes released calls off a `Board` and delivers outcomes."""
