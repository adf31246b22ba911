"""What `/metrics` of a live server says."""

from __future__ import annotations

import httpx
from prometheus_client.parser import text_string_to_metric_families


class Scraped:
    """One look at the metrics of a server."""

    def __init__(self, url: str) -> None:
        response = httpx.get(f"{url}/metrics", timeout=60)
        assert response.status_code == 200
        self._samples = [
            sample
            for family in text_string_to_metric_families(response.text)
            for sample in family.samples
        ]

    def total(self, name: str, **labels: str) -> float:
        """The sum of the samples of a name that have these labels; 0 without any."""
        return sum(
            sample.value
            for sample in self._samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def mean(self, name: str, **labels: str) -> float:
        """The mean of what a histogram saw."""
        return self.total(f"{name}_sum", **labels) / self.total(f"{name}_count", **labels)
