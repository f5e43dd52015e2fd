"""``dpad generate``."""

import json
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

import dpad
from dpad import threads
from dpad.cli.common import Json, check_writable, print_json, quiet_loading
from dpad.loading import load

NAME = "generate"
EXAMPLES = (
    'dpad generate demo --prompt "by 3 forward from" --prefill 4185e',
    'dpad generate demo --prompt "by 2 forward from" --prefill 0095d --trace trace.jsonl --json',
    'dpad generate demo --prompt "by 1 forward from" --prefill 0007c --suffix-kind window '
    "--suffix-window 16 --cache dual --threshold 0.95 --set batch_invariant=true",
    'dpad generate GSAI-ML/LLaDA-8B-Instruct --prompt "What is 17 * 23?" '
    "--preset llada-8b-instruct/gsm8k",
)


def _option(text, panel, *names, **more):
    return typer.Option(*names, help=text, rich_help_panel=panel, **more)


def command(
    model: Annotated[
        str, typer.Argument(help='Repository or folder; "demo" is the shipped tiny model.')
    ],
    prompt: Annotated[str, typer.Option(help='User turn; "-" reads it from stdin.')],
    prefill: Annotated[str, typer.Option(help="Given start of the answer.")] = "",
    raw: Annotated[bool, typer.Option("--raw", help="Do not use the chat template.")] = False,
    preset: Annotated[
        str | None, _option("Published settings by name, model/task.", "Decoding")
    ] = None,
    max_new_tokens: Annotated[int | None, _option("Length of the canvas.", "Decoding")] = None,
    block_length: Annotated[int | None, _option("Tokens decoded together.", "Decoding")] = None,
    threshold: Annotated[
        float | None, _option("Commit tokens at least this probable.", "Decoding")
    ] = None,
    factor: Annotated[float | None, _option("Commit by Fast-dLLM's factor.", "Decoding")] = None,
    steps: Annotated[int | None, _option("Fixed number of steps.", "Decoding")] = None,
    temperature: Annotated[float | None, _option("Gumbel noise; 0: greedy.", "Decoding")] = None,
    cache: Annotated[str | None, _option("none, prefix or dual.", "Decoding")] = None,
    early_stop: Annotated[
        bool | None, _option("Stop behind the block that holds the end.", "Decoding")
    ] = None,
    seed: Annotated[int | None, _option("Of all random draws.", "Decoding")] = None,
    more: Annotated[
        list[str] | None,
        _option("Any other option of the configuration: name=value.", "Decoding", "--set"),
    ] = None,
    suffix_kind: Annotated[
        str | None, _option("gaussian, uniform, window, all or none.", "Suffix")
    ] = None,
    suffix_window: Annotated[int | None, _option("Candidate positions.", "Suffix")] = None,
    suffix_decay: Annotated[float | None, _option("k of the gaussian.", "Suffix")] = None,
    suffix_scale: Annotated[float | None, _option("a of the gaussian.", "Suffix")] = None,
    suffix_density: Annotated[float | None, _option("Share of the window.", "Suffix")] = None,
    suffix_count: Annotated[float | None, _option("Number of positions.", "Suffix")] = None,
    suffix_near: Annotated[int | None, _option("Nearest, always kept.", "Suffix")] = None,
    dtype: Annotated[
        str, typer.Option(help="float32, bfloat16, float16; auto: the checkpoint's.")
    ] = "auto",
    device: Annotated[str, typer.Option(help="cpu, cuda ...; auto: a GPU if any.")] = "auto",
    cpu_threads: Annotated[
        int | None,
        typer.Option("--threads", help="CPU threads; default: OMP_NUM_THREADS, or idle cores."),
    ] = None,
    trace: Annotated[Path | None, typer.Option(help="Write every commit to this file.")] = None,
    json_output: Json = False,
):
    """Answer one prompt; finished blocks appear as they are decoded.

    Weights are loaded by dpad's own class (no remote code). What no option gives is the default of
    the model's variant. The answer goes to stdout, figures to stderr.
    """
    suffix = {
        "kind": suffix_kind,
        "window": suffix_window,
        "decay": suffix_decay,
        "scale": suffix_scale,
        "density": suffix_density,
        "count": suffix_count,
        "near": suffix_near,
    }
    suffix = {name: value for name, value in suffix.items() if value is not None}
    options = {
        "max_new_tokens": max_new_tokens,
        "block_length": block_length,
        "confidence_threshold": threshold,
        "factor": factor,
        "steps": steps,
        "temperature": temperature,
        "cache": cache,
        "early_stop": early_stop,
        "seed": seed,
        "suffix": dpad.Suffix(**suffix) if suffix else None,
    }
    options = {n: v for n, v in options.items() if v is not None}
    config = configuration(preset, {**options, **assignments(more or ())})
    if trace is not None:
        check_writable("--trace", trace)
    quiet_loading(always=model == "demo")
    threads.use(cpu_threads)
    loaded, tokenizer = load(model, dtype, device)
    if prompt == "-":
        prompt = sys.stdin.read().removesuffix("\n")
    ids = encode(tokenizer, prompt, prefill, raw)
    result = answer(loaded, tokenizer, ids, config, stream=not json_output, trace=trace)
    note = note_of(tokenizer.decode(ids[0])) if model == "demo" else None
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


def assignments(words):
    """``name=value`` words as a dict; values are JSON where they can be, else text."""
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"--set {word}: expected name=value")
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = value
    return found


def configuration(preset, options):
    """`DPadGenerationConfig` of a preset's values under `options`; ValueError if unknown."""
    from dpad.generation import presets
    from dpad.generation.config import DPadGenerationConfig

    if preset is None:
        return DPadGenerationConfig(**options)
    if preset not in presets.names():
        known = ", ".join(presets.names())
        raise ValueError(f"--preset {preset}: expected one of {known}")
    return presets.get(preset, **options)


def encode(tokenizer, prompt, prefill="", raw=False):
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


def _streamer(tokenizer):
    """Prints the answer as it comes, and nothing at all where none was begun."""
    from transformers import TextStreamer

    class Printer(TextStreamer):
        def end(self):
            if not self.next_tokens_are_prompt:
                super().end()

    return Printer(tokenizer, skip_prompt=True, skip_special_tokens=True)


def note_of(prompt):
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


def answer(model, tokenizer, ids, config, stream=False, trace=None):
    """Decodes one prompt and returns what ``--json`` prints; `stream` prints finished blocks."""
    from dpad.generation.api import merge
    from dpad.models.adapter import find_adapter

    streamer = _streamer(tokenizer) if stream else None
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
    if trace is not None:
        out.trace.with_text(tokenizer).save(trace)
    tokens = out.sequences[0, ids.shape[1] :].tolist()
    ends = set(find_adapter(model).end_ids)
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
