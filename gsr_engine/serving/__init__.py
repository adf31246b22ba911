"""The engine behind asyncio: a loop in a thread of its own, streams of events."""
