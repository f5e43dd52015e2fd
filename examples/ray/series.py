"""A replica's Prometheus series, handed on to Ray's, which adds the replica's name to each."""

from ray.serve import metrics


class Series:
    """Publishes what a prometheus-client registry holds through Ray's own metrics.

    A scraper that asks Ray's nodes sees every replica; one that asks `/metrics` through the proxy
    would see one of them by chance. Names and labels stay, with "ray_" before them. All are gauges
    to Ray, which would rename counters and can only add to histograms; `rate` and
    `histogram_quantile` read them all the same.
    """

    def __init__(self, registry):
        self._registry, self._gauges = registry, {}

    def publish(self):
        """Brings Ray's series to where the registry's are."""
        samples = (sample for family in self._registry.collect() for sample in family.samples)
        for sample in samples:
            if sample.name.endswith("_created"):
                continue
            labels = {key: str(value) for key, value in sample.labels.items()}
            if sample.name not in self._gauges:
                gauge = metrics.Gauge(sample.name, tag_keys=tuple(labels))
                self._gauges[sample.name] = gauge
            self._gauges[sample.name].set(sample.value, tags=labels)
