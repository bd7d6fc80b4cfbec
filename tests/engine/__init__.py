"""Tests of how runs happen: the laws of the state machine, and every ruling on runs."""
