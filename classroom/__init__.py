"""Assignments made from this repository, handed out, and graded by themselves: docs/classroom.md."""
