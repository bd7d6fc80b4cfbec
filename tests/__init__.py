"""Tests of dagger_dsl: one folder per room, and what all of them share."""
