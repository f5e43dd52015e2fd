"""``dpad eval``."""

from typing import Annotated

import typer

from dpad.cli.common import Json

NAME = "eval"
EXAMPLES = (
    "dpad eval run --model dpad --model_args pretrained=demo --tasks counting "
    "--include_path examples/eval --apply_chat_template --batch_size 16",
    "dpad eval --server http://127.0.0.1:8000 run --tasks counting --include_path examples/eval "
    "--apply_chat_template",
)
SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True}


def command(
    context: typer.Context,
    server: Annotated[
        str | None, typer.Option(help="Address of a server to ask, in place of a model here.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--served-name", help="Its model; default: the only one it has.")
    ] = None,
    concurrent: Annotated[int, typer.Option(help="Requests to the server at a time.")] = 8,
    json_output: Json = False,
) -> None:
    """Run lm-evaluation-harness with dpad's models in it.

    Everything else is the harness's own command line, as with python -m dpad.eval; the harness
    prints its results, and --json holds for errors only. With --server the harness's own
    "local-completions" asks the server, or "local-chat-completions" with --apply_chat_template;
    its key is in OPENAI_API_KEY.
    """
    from dpad.eval import main

    words = list(context.args)
    if server is not None:
        if "--model" in words or "--model_args" in words:
            raise ValueError(f"--server {server} chooses --model and --model_args itself")
        name = model or only_model(server)
        chat = "--apply_chat_template" in words
        told = arguments(server, name, concurrent, chat)
        words += ["--model", f"local-{'chat-' * chat}completions", "--model_args", told]
    main(words)


def only_model(server: str) -> str:
    """Name of the model that a server has; ValueError for several, OSError where nobody answers."""
    import json
    import os
    import urllib.request

    key = os.environ.get("OPENAI_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        request = urllib.request.Request(server.rstrip("/") + "/v1/models", headers=headers)
        with urllib.request.urlopen(request, timeout=30) as response:
            names = [model["id"] for model in json.load(response)["data"]]
    except OSError as error:
        raise OSError(f"--server {server}: {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"--server {server}: no list of models ({error})") from error
    if len(names) != 1:
        raise ValueError(f"--server {server} has {', '.join(names)}: choose by --served-name")
    return names[0]


def arguments(server: str, name: str, concurrent: int, chat: bool) -> str:
    """What the harness's model of a server is told: of chat, or of completions."""
    values = {
        "model": name,
        "base_url": f"{server.rstrip('/')}/v1/{'chat/' * chat}completions",
        "num_concurrent": concurrent,
        "tokenizer_backend": "None",
        "tokenized_requests": "False",
    }
    return ",".join(f"{key}={value}" for key, value in values.items())
