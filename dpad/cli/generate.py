"""``dpad generate``."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import dpad
from dpad.cli.common import Json, check_writable, print_json
from dpad.cli.decoding import Load, Model, asks, configured, loader

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase
    from transformers.generation.streamers import BaseStreamer

    from dpad.generation.config import DPadGenerationConfig
    from dpad.models.hf.interface import NativeModel

NAME = "generate"
EXAMPLES = (
    'dpad generate demo --prompt "by 3 forward from" --prefill 4185e',
    'dpad generate demo --infill --prompt "<|startoftext|><|user|>by 2 forward from'
    '<|assistant|>3932h39<|mdm_mask|><|mdm_mask|>g3936f"',
    'dpad generate demo --prompt "by 2 forward from" --prefill 0095d --trace trace.jsonl --json',
    'dpad generate demo --prompt "by 1 forward from" --prefill 0007c --suffix-kind window '
    "--suffix-window 16 --cache dual --threshold 0.95 --set batch_invariant=true",
    'dpad generate GSAI-ML/LLaDA-8B-Instruct --prompt "What is 17 * 23?" '
    "--preset llada-8b-instruct/gsm8k",
)


@asks(config=configured, load=loader)
def command(
    model: Model,
    prompt: Annotated[str, typer.Option(help='User turn; "-" reads it from stdin.')],
    config: "DPadGenerationConfig",
    load: Load,
    prefill: Annotated[str, typer.Option(help="Given start of the answer.")] = "",
    raw: Annotated[bool, typer.Option("--raw", help="Do not use the chat template.")] = False,
    infill: Annotated[
        bool,
        typer.Option("--infill", help="Fill the mask tokens in the prompt; no chat template."),
    ] = False,
    trace: Annotated[Path | None, typer.Option(help="Write every commit to this file.")] = None,
    json_output: Json = False,
) -> None:
    """Answer one prompt; finished blocks appear as they are decoded.

    Weights are loaded by dpad's own class (no remote code). What no option gives is the default of
    the model's variant. The answer goes to stdout, figures to stderr.
    """
    if trace is not None:
        check_writable("--trace", trace)
    loaded, tokenizer = load()
    if prompt == "-":
        prompt = sys.stdin.read().removesuffix("\n")
    ids = encode(tokenizer, prompt, prefill, raw or infill)
    if infill:
        config.update(infill=True)
    result = answer(loaded, tokenizer, ids, config, stream=not json_output, trace=trace)
    note = note_of(tokenizer.decode(ids[0])) if model == "demo" and not infill else None
    if note is not None:
        typer.echo(f"note: {note}", err=True)
    if json_output:
        print_json({"model": model, **result})
        return
    typer.echo(
        f"{result['tokens']} tokens in {result['forwards']} forwards, {result['positions']} "
        f"positions, {result['seconds']:.2f} s, ended by {result['finish_reason']}, "
        f"seed {result['seed']}",
        err=True,
    )


def encode(
    tokenizer: "PreTrainedTokenizerBase", prompt: str, prefill: str = "", raw: bool = False
) -> "torch.Tensor":
    """Token ids of a prompt, int64 ``[1, length]``, by the chat template if there is one."""
    import torch

    from dpad.prompting import encode_chat, encode_text

    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": prefill}]
    try:
        if getattr(tokenizer, "chat_template", None) and not raw:
            ids = encode_chat(tokenizer, turns)
        else:
            ids = encode_text(tokenizer, prompt + prefill)
    except ValueError as error:
        raise ValueError(f"--prompt: {error}") from error
    return torch.tensor([ids], dtype=torch.int64)


def _streamer(tokenizer: "PreTrainedTokenizerBase", whole: bool = False) -> "BaseStreamer":
    """Prints the answer, or the `whole` text, as it comes; nothing at all where none was begun."""
    from transformers import TextStreamer

    class Printer(TextStreamer):
        begun = False

        def put(self, value: "torch.Tensor") -> None:
            prompt = self.next_tokens_are_prompt and not whole
            super().put(value)
            self.begun = self.begun or not prompt

        def end(self) -> None:
            if self.begun:
                super().end()

    return Printer(tokenizer, skip_prompt=not whole, skip_special_tokens=True)


def note_of(prompt: str) -> str | None:
    """What is to be said of a prompt for the shipped model, or None."""
    from dpad import demo

    try:
        demo.solve(prompt)
    except ValueError:
        return (
            "the shipped model can only count: its answer to this means nothing. Try "
            '--prompt "by 3 forward from" --prefill 4185e'
        )
    return None


def answer(
    model: "NativeModel",
    tokenizer: "PreTrainedTokenizerBase",
    ids: "torch.Tensor",
    config: "DPadGenerationConfig",
    stream: bool = False,
    trace: Path | None = None,
) -> dict[str, Any]:
    """Decodes one prompt and returns what ``--json`` prints; `stream` prints finished blocks."""
    from dpad.generation.api import merge
    from dpad.models.adapter import find_adapter

    streamer = _streamer(tokenizer, config.infill) if stream else None
    begun = time.perf_counter()
    out = dpad.generate(
        model,
        ids.to(model.device),
        generation_config=config,
        streamer=streamer,
        return_dict_in_generate=True,
        trace=trace is not None,
    )
    seconds = time.perf_counter() - begun
    if trace is not None and out.trace is not None:
        out.trace.with_text(tokenizer).save(trace)
    tokens = out.sequences[0, 0 if config.infill else ids.shape[1] :].tolist()
    ends = set() if config.infill else set(find_adapter(model).end_ids)
    length = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
    return {
        "text": tokenizer.decode(tokens[:length], skip_special_tokens=True),
        "tokens": length,
        "token_ids": tokens[:length],
        "prompt_tokens": ids.shape[1],
        "forwards": int(out.forwards[0]),
        "tokens_per_forward": float(out.tokens_per_forward[0]),
        "positions": out.timings["positions"],
        "seconds": seconds,
        "finish_reason": out.finish_reason[0],
        "seed": out.seed,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "config": merge(model, None, config, {}).to_diff_dict(),
        "trace": None if trace is None else str(trace),
    }
