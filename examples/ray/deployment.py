"""`dpad serve` on Ray Serve: the same ASGI application, one engine per replica.

    serve run examples.ray.deployment:build model=demo replicas=2

`Options` lists what can be given; docs/serving.md tells about machines and GPUs.
"""

import os

from pydantic import BaseModel, ConfigDict
from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, BackpressureConfig

FULL = 0.75  # load of an engine above which another replica is wanted


class Options(BaseModel):
    """Arguments of `build`.

    `model`: a repository or folder that every node can read, or "demo". `name`: for clients.
    `replicas` at least, `most_replicas` at most (default: as many). `num_cpus`, `num_gpus` of each.
    `max_sequences`, `queue`, `max_tokens`: as of `dpad serve`, for each replica. `api_key`: what
    clients must know, "" for nothing.
    """

    model_config = ConfigDict(extra="forbid")

    model: str = "demo"
    name: str | None = None
    dtype: str = "auto"
    replicas: int = 1
    most_replicas: int | None = None
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    max_sequences: int = 16
    queue: int = 64
    max_tokens: int = 8192
    api_key: str | None = None


@serve.deployment
@serve.ingress()
class Replica:
    """One model, one engine, and the application that `dpad serve` runs."""

    def __init__(self, options):
        import dpad
        from dpad import loading, threads
        from dpad.serving import create_app
        from examples.ray.series import Series

        # As many threads as CPUs were granted: other replicas have the others.
        threads.use(max(1, int(options.num_cpus)))
        model, tokenizer = loading.load(options.model, options.dtype)
        dpad.patch(model)
        self._sequences = options.max_sequences
        self.engine = dpad.Engine(
            model,
            max_sequences=options.max_sequences,
            max_tokens=options.max_tokens,
            queue=options.queue,
        ).start()
        keys = [] if options.api_key is None else [options.api_key]
        name = options.name or options.model
        self._application = create_app(self.engine, tokenizer, name=name, api_keys=keys)
        self._series = Series(self._application.state.metrics.registry)

    def __serve_build_asgi_app__(self):
        """Called by Ray Serve."""
        return self._application

    def check_health(self):
        """Called by Ray Serve; a replica whose engine has failed is replaced."""
        self._series.publish()
        if self.engine.broken:
            raise RuntimeError("the engine has failed")

    def record_autoscaling_stats(self):
        """Called by Ray Serve: how full the engine is, 1 for as many requests as it decodes."""
        found = self.engine.stats()
        return {"load": (found["running"] + found["waiting"]) / self._sequences}

    def stats(self):
        """Counts of this replica's engine, for whoever has a handle."""
        replica = serve.get_replica_context().replica_id.unique_id
        return {"replica": replica, "pid": os.getpid(), **self.engine.stats()}

    def __del__(self):
        if hasattr(self, "engine"):
            self.engine.close()


def by_load(context):
    """Autoscaling policy: as many replicas as keep the engines' mean load at `FULL`."""
    loads = (context.aggregated_metrics or {}).get("load")
    if not loads:
        return context.target_num_replicas, {}
    return sum(loads.values()) / FULL, {}


def build(options: Options):
    """The application of these options, for ``serve run`` and `ray.serve.run`."""
    most = options.most_replicas or options.replicas
    scaling = AutoscalingConfig(
        min_replicas=options.replicas,
        max_replicas=most,
        policy=AutoscalingPolicy(policy_function=by_load),
    )
    # A replica takes what its engine decodes and lets wait; as many again may wait in Ray's proxy,
    # also those that it is about to hand on. Others get 429.
    most_at_once = options.max_sequences + options.queue
    deployed = Replica.options(
        **({"autoscaling_config": scaling} if most > options.replicas else
           {"num_replicas": options.replicas}),
        ray_actor_options={"num_cpus": options.num_cpus, "num_gpus": options.num_gpus},
        max_ongoing_requests=most_at_once,
        max_queued_requests=most_at_once,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1),
        health_check_period_s=5,
        graceful_shutdown_timeout_s=30,
    )  # fmt: skip
    return deployed.bind(options)
