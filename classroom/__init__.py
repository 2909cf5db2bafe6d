"""Assignments made from this repository, which grade themselves: docs/classroom.md."""
