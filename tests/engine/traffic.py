"""Random requests that come and go, and what each gives alone."""

import random
from dataclasses import dataclass

import torch

import dpad
from tests.decode.common import EOS_ID, MASK_ID
from tests.generation import random_calls


@dataclass
class Call:
    """A prompt, its options, and the output of `dpad.generate` alone."""

    prompt: list
    options: dict
    row_key: int
    alone: object = None


def calls(model, count, seed, longest=30):
    """Random calls of one row each, with canvases of about 5 to `longest` new tokens."""
    draw, made = random.Random(seed), []
    shift = dpad.models.adapter.find_adapter(model).shift
    while len(made) < count:
        options = random_calls.options(draw, 1, shift)
        options.pop("micro_batch", None)
        options.pop("num_return_sequences", None)
        options.pop("trace")
        if longest > 30 and draw.random() < 0.2:
            options["max_new_tokens"] = draw.randrange(32, longest)
            if "steps" in options:
                options["steps"] = options["max_new_tokens"]
            if options.get("alg") == "confidence_threshold":
                continue
        prompt = [draw.randrange(EOS_ID) for _ in range(draw.randint(1, 14))]
        if draw.random() < 0.2 and not {"steps", "compatible", "cfg_scale", "refine"} & set(
            options
        ):
            gaps = draw.choices((MASK_ID, draw.randrange(EOS_ID)), k=options["max_new_tokens"] - 1)
            prompt += [*gaps, MASK_ID]
            options["infill"] = True
        made.append(Call(prompt, options, draw.randrange(100)))
    for call in made:
        call.alone = dpad.generate(
            model,
            [call.prompt],
            row_keys=[call.row_key],
            return_dict_in_generate=True,
            **call.options,
        )
    return made


def run(engine, made, seed, cancel=0.0):
    """Submits the calls at random steps; the requests, all of which have ended."""
    draw, requests, doomed = random.Random(seed), [], []
    for call in made:
        for _ in range(draw.choice((0, 0, 1, 2, 5))):
            engine.step()
            for request, at in doomed:
                if engine.steps >= at:
                    request.cancel()
        request = engine.submit(
            call.prompt, row_key=call.row_key, priority=draw.randint(0, 2), **call.options
        )
        requests.append(request)
        if draw.random() < cancel:
            doomed.append((request, engine.steps + draw.randint(0, 12)))
    while engine.step():
        for request, at in doomed:
            if engine.steps >= at:
                request.cancel()
    return requests


def assert_as_alone(requests, made):
    """Tokens, forwards, kept sets and reasons are those of the same call alone."""
    assert made
    for request, call in zip(requests, made, strict=True):
        if request.status == "cancelled":
            continue
        out, alone = request.result(), call.alone
        assert torch.equal(out.sequences, alone.sequences), call.options
        assert torch.equal(out.forwards, alone.forwards), call.options
        assert out.finish_reason == alone.finish_reason
        for kept, other in zip(out.kept_suffix[0], alone.kept_suffix[0], strict=True):
            assert torch.equal(kept, other)


def poisoning(retire):
    """`Decoder.retire` that leaves NaN in freed ranges and random ids in freed rows."""

    def spoiled(decoder, q, *args, **kwargs):
        row, part = q.row, slice(q.start, q.start + q.slots)
        retire(decoder, q, *args, **kwargs)
        with torch.inference_mode():
            for pair in decoder.workspace.arena.layers:
                for t in pair:
                    t[:, part] = float("nan")
            for name in ("tokens", "committed_at", "masks_left", "status", "forward"):
                t = getattr(decoder.canvas, name)
                t[row] = torch.randint(0, 50, t[row].shape)

    return spoiled
