"""What the service counts, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The counters of one service."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        labels = ("route", "status")
        self.requests = Counter("brainplug_requests", "Requests that were answered", labels, registry=registry)
        text = "Seconds from a request to the end of its answer"
        self.seconds = Histogram("brainplug_request_seconds", text, labels[:1], buckets=SECONDS, registry=registry)
        text = "Results of clips and windows"
        self.results = Counter("brainplug_results", text, ("adapter",), registry=registry)
        self.batches = Histogram("brainplug_batch_size", "Clips in a batch", buckets=SIZES, registry=registry)
        text = "Clips that are read, wait or are computed"
        self.running = Gauge("brainplug_running", text, registry=registry)

    def text(self) -> bytes:
        """All of it, in the text format of Prometheus."""
        return generate_latest(self.registry)
