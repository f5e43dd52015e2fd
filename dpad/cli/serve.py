"""``dpad serve``."""

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpad.cli.common import Json, print_json
from dpad.cli.decoding import Load, Model, asks, assignments, configuration, loader, option
from dpad.values import one_of, optional, refuse, whole

if TYPE_CHECKING:
    from dpad.models.hf.interface import NativeModel

NAME = "serve"
EXAMPLES = (
    "dpad serve demo",
    "dpad serve GSAI-ML/LLaDA-8B-Instruct --preset llada-8b-instruct/gsm8k --port 8001",
    "dpad serve demo --page",
    "dpad serve demo --max-sequences 4 --queue 16 --timeout 60 --set cache=dual",
)
TOKENS = 65536  # K/V slots, where they fit
LOG_LEVELS = ("critical", "error", "warning", "info", "debug", "trace")
# In bfloat16 on a CPU, torch keeps compiled code for every number of rows, about 1 MB each; passes
# of a server have hundreds of them. Read at the first product; entries of each cache.
PRODUCT_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")


@asks(load=loader)
def command(
    model: Model,
    load: Load,
    host: Annotated[str, option("Address to listen on.", "Network")] = "127.0.0.1",
    port: Annotated[int, option("Port; 0: any free one.", "Network")] = 8000,
    api_key: Annotated[
        list[str] | None,
        option(
            "Key that clients must know; may be given several times.",
            "Network",
            envvar="DPAD_API_KEY",
        ),
    ] = None,
    public: Annotated[
        bool, option("Let others than this machine ask without a key.", "Network", "--public")
    ] = False,
    name: Annotated[str | None, option("Name of the model for clients.", "Network")] = None,
    page: Annotated[
        bool, option("A web page at /page: a race of two decodings.", "Network", "--page")
    ] = False,
    max_sequences: Annotated[int, option("Requests decoded at a time.", "Limits")] = 16,
    max_tokens: Annotated[
        int | None, option("K/V slots of all of them; default: 65536, or what fits.", "Limits")
    ] = None,
    max_length: Annotated[int | None, option("Positions of one request.", "Limits")] = None,
    queue: Annotated[int, option("Requests that may wait; others get 429.", "Limits")] = 256,
    timeout: Annotated[float, option("Seconds for a request, waiting included.", "Limits")] = 600,
    max_body: Annotated[int, option("Bytes of a request.", "Limits")] = 2**20,
    max_choices: Annotated[int, option("Answers of a request: prompts times n.", "Limits")] = 16,
    drain: Annotated[float, option("Seconds to finish in after SIGTERM.", "Limits")] = 30,
    share_prefix: Annotated[
        bool,
        option(
            "Share the K/V of prompts that begin alike (block-causal models).",
            "Decoding",
            "--share-prefix",
        ),
    ] = False,
    preset: Annotated[
        str | None, option("Published settings by name, model/task.", "Decoding")
    ] = None,
    more: Annotated[
        list[str] | None,
        option("Default of an option of the configuration: name=value.", "Decoding", "--set"),
    ] = None,
    log_level: Annotated[
        str, typer.Option(help="critical, error, warning, info, debug or trace.")
    ] = "info",
    json_output: Json = False,
) -> None:
    """Serve a model behind OpenAI's interface, to this machine only unless told otherwise.

    Routes: /v1/completions, /v1/chat/completions, /v1/models, /health, /ready, /metrics. SIGTERM
    finishes what has begun, then exits. --json prints url and model once requests are answered.
    """
    if page and api_key:
        raise ValueError("--page: a browser sends no --api-key; give one of the two")
    whole(0, 65535)("--port", port)
    optional(whole(1))("--max-tokens", max_tokens)
    _check_limits(max_body, max_choices, timeout, drain)
    log_level = one_of(*LOG_LEVELS)("--log-level", log_level.lower())
    import dpad
    from dpad.serving import Limits, create_app
    from dpad.serving.guards import checked_keys
    from dpad.serving.server import LOOPBACK, Server

    if page:
        from dpad.serving.page import add_page
    api_key = checked_keys("--api-key", api_key or ())
    local = host in LOOPBACK
    if not (local or api_key or public):
        raise ValueError(
            f"--host {host} lets other machines ask: give --api-key (or DPAD_API_KEY), or --public"
        )
    for variable in PRODUCT_CACHES:
        os.environ.setdefault(variable, "64")
    limits = Limits(body=max_body, choices=max_choices, seconds=timeout)
    config = configuration(preset, assignments(more or ()))
    loaded, tokenizer = load()
    dpad.patch(loaded)
    sizes: dict[str, Any] = {
        "max_sequences": max_sequences,
        "queue": queue,
        "max_length": max_length,
        "share_prefix": share_prefix,
    }
    if max_tokens is None:
        max_tokens = _fitting(loaded, sizes)
    engine = dpad.Engine(loaded, max_tokens=max_tokens, **sizes)
    # Pages of other sites may make a browser ask this machine by another name.
    hosts = [*LOOPBACK, "[::1]"] if local and not api_key else None
    app = create_app(
        engine.start(),
        tokenizer,
        name=name or model,
        api_keys=api_key,
        limits=limits,
        hosts=hosts,
        generation_config=config,
    )
    if page:
        add_page(app)
    tell = (lambda url: print_json({"url": url, "model": name or model})) if json_output else None
    with engine:
        Server(app, engine, host, port, drain, log_level, tell).run()


def _check_limits(max_body: int, max_choices: int, timeout: float, drain: float) -> None:
    whole(1)("--max-body", max_body)
    whole(1)("--max-choices", max_choices)
    if not timeout > 0:  # NaN is not, either
        refuse("--timeout", timeout, "a number above 0")
    if not drain >= 0:
        refuse("--drain", drain, "a number >= 0")


def _fitting(model: "NativeModel", sizes: dict[str, Any]) -> int:
    """K/V slots that fit, `TOKENS` at most."""
    import dpad

    found = dpad.Engine(model, max_tokens=TOKENS, **sizes).capacity()
    return TOKENS if found.max_tokens is None else max(1, min(TOKENS, found.max_tokens))
