"""The engine behind asyncio: it runs in a separate thread and reports streams of events."""
