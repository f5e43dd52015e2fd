"""Block-causal decoding on exact K/V against Transformers' own Qwen3 with its DynamicCache.

SDAR is Qwen3's tree, so the partner is `Qwen3ForCausalLM` with the same weights and a mask that
shows everything: a step computes one block behind the cached ones. Three comparisons, tokens and
logits first, then in turns; every figure is a ratio of one run (CPU time):

* one cached step: forward and head of a block's rows;
* a whole decoding with the cache: passes over a block, and one that stores it when it is filled;
* dpad's decoding on exact K/V against the same restated without a cache, where each pass computes
  everything up to the block. It grows with the square of the text, so this one has a shorter prompt
  (`--plain-prompt`), fewer new tokens (`--plain-new`) and at most three rounds.

`--fuse` takes the step with merged weights; `--profile` says instead where the time of a step goes,
in both. The default takes about two minutes on an idle core.

    python -m benchmarks.block_causal --threads 1
    python -m benchmarks.block_causal --fuse --profile
    python -m benchmarks.block_causal --width 64 --layers 2 --prompt 32 --new 32 --rounds 1
"""

import argparse
import statistics
import time

import torch
from transformers import DynamicCache, Qwen3Config, Qwen3ForCausalLM

import dpad
from benchmarks import machine
from benchmarks.profile import shares_of
from dpad.models.hf.sdar import SDARConfig, SDARForCausalLM

VOCABULARY, MASK, END = 8192, 8191, 8190


def models(width, layers, block):
    """(SDAR, Qwen3) with the same random weights, whose logits are far from flat."""
    sizes = {
        "vocab_size": VOCABULARY, "hidden_size": width, "intermediate_size": 3 * width,
        "num_hidden_layers": layers, "num_attention_heads": max(width // 64, 1),
        "num_key_value_heads": max(width // 128, 1), "head_dim": 64,
        "max_position_embeddings": 4096, "tie_word_embeddings": False, "eos_token_id": END,
    }  # fmt: skip
    ours = SDARForCausalLM(SDARConfig(**sizes, block_size=block, mask_token_id=MASK)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in ours.parameters():
            if weight.dim() == 2:
                weight.normal_(0, 1.5 * weight.shape[1] ** -0.5, generator=generator)
        ours.lm_head.weight.mul_(3)
    theta = {"rope_theta": ours.config.rope_theta}
    config = Qwen3Config(**sizes, rms_norm_eps=ours.config.rms_norm_eps, **theta)
    config.rope_parameters = {"rope_type": "default", **theta}  # where version 5 looks for it
    theirs = Qwen3ForCausalLM(config).eval()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def forward(model, ids, cache=None, mask=None):
    """Logits ``[rows, vocabulary]`` of ids behind what the cache holds, all of which is visible."""
    held = 0 if cache is None else cache.get_seq_length()
    length = ids.shape[1]
    if mask is None:
        mask = torch.ones(1, 1, length, held + length, dtype=torch.bool)
    position = torch.arange(held, held + length)[None]
    out = model(ids, attention_mask=mask, position_ids=position, past_key_values=cache,
                use_cache=cache is not None)  # fmt: skip
    return out.logits[0]


def by_blocks(length, block):
    """The mask of whole blocks, bool ``[1, 1, length, length]``."""
    number = torch.arange(length) // block
    return (number[:, None] >= number)[None, None]


@torch.inference_mode()
def plain_decode(model, prompt, new, block, quota, cached):
    """Tokens of a plain decoder: the `quota` surest masks of a block in each pass."""
    canvas = torch.tensor([prompt + [MASK] * new])
    cache = DynamicCache() if cached else None
    if cached:
        forward(model, canvas[:, : len(prompt)], cache, by_blocks(len(prompt), block))
    for start in range(len(prompt), len(prompt) + new, block):
        end = start + block
        while bool((canvas[:, start:end] == MASK).any()):
            if cached:
                logits = forward(model, canvas[:, start:end], cache)
                cache.crop(-block)
            else:
                logits = forward(model, canvas[:, :end], None, by_blocks(end, block))[start:]
            logits[:, MASK] = -torch.inf
            score, token = logits.softmax(-1).max(-1)
            masked = canvas[0, start:end] == MASK
            best = score.where(masked, -1).topk(min(quota, int(masked.sum()))).indices
            canvas[0, start + best] = token[best]
        if cached:
            forward(model, canvas[:, start:end], cache)
    return canvas[0].tolist()


def dpad_decode(model, prompt, new, block, quota):
    """The same by dpad, on exact K/V."""
    return dpad.generate(
        model, [prompt], max_new_tokens=new, block_length=block, steps=new // quota,
        cache="prefix", early_stop=False, seed=0,
    )[0].tolist()  # fmt: skip


def step_functions(ours, theirs, prompt, block, fuse=False):
    """(dpad's step, the partner's) on the same cached prompt; each gives the block's logits.

    `fuse`: with merged weights, as `dpad.patch(model, fuse_projections=True)` has them.
    """
    from dpad.decode.cache import KVArena
    from dpad.decode.forward import run_layers
    from dpad.decode.layout import Layout
    from dpad.models.adapter import find_adapter
    from dpad.models.fused_projections import FusedProjections

    adapter, arena, held = find_adapter(ours), KVArena(), len(prompt)
    arena.reserve(adapter, held + block)
    if fuse:
        adapter.fused = FusedProjections(adapter.layers)
        adapter.fused.refresh()
    ids = torch.tensor([*prompt, *[MASK] * block])

    def layout(first, end):
        position, one = torch.arange(first, end), torch.zeros(1, dtype=torch.int64)
        offsets = torch.tensor([0, end - first])
        return Layout(
            slot=position, position=position, q_offsets=offsets, n_keys=one + end,
            logit_row=position - first, l_offsets=offsets, canvas_row=one, kv_start=one,
            hidden_until=None, target=position, length=one + end, max_position=end - 1,
        )  # fmt: skip

    def rows(first, end, limit=None):
        part = layout(first, end)
        hidden = adapter.embed(ids[first:end])
        return run_layers(adapter, hidden, part, arena, part.logit_row, key_limit=limit)

    rows(0, held, adapter.key_limit(torch.arange(held), held))
    cache = DynamicCache()
    forward(theirs, ids[None, :held], cache, by_blocks(held, block))

    def partner():
        logits = forward(theirs, ids[None, held:], cache)
        cache.crop(-block)
        return logits

    return (lambda: adapter.head(rows(held, held + block))), partner


def timed(function):
    begun = time.process_time()
    function()
    return time.process_time() - begun


def ratio(name, ours, theirs, rounds, repeats=1):
    """Prints how many times the partner's time is dpad's: median and range over rounds."""
    found = []
    for number in range(rounds + 1):
        spent = {}
        for way in sorted((ours, theirs), key=id, reverse=bool(number % 2)):
            spent[way] = timed(lambda way=way: [way() for _ in range(repeats)])
        if number:  # the first round warms up
            found.append(spent[theirs] / spent[ours])
    print(f"{name}: {statistics.median(found):.2f}x [{min(found):.2f}, {max(found):.2f}]")
    return statistics.median(found)


# Operators of either side by what they do.
PARTS = {
    "products": ("addmm", "mm", "linear"),
    "attention": ("block_attention", "_scaled_dot_product_flash_attention_for_cpu", "bmm"),
    "norms, RoPE, SwiGLU": ("add_rms_norm_", "swiglu", "rope_kv_write_", "mul", "add", "silu",
                            "pow", "mean", "rsqrt", "neg", "cat"),
    "K/V": ("copy_", "index_select", "index", "slice"),
}  # fmt: skip


def profile(model, steps, rows):
    """Prints where the time of a step goes, by names of its ways; returns the shares."""
    read = sum(weight.numel() for weight in model.parameters() if weight.dim() == 2)
    read -= model.get_input_embeddings().weight.numel()
    gflops, gigabytes = machine.peaks()
    print(f"this machine: {gflops:.0f} GFLOP/s in a large product, reads {gigabytes:.1f} GB/s")
    found = {}
    for name, step in steps.items():
        step()
        _, seconds, shares = shares_of(lambda step=step: [step() for _ in range(5)], PARTS)
        seconds, shares["Python and the rest"] = seconds / 5, 1 - sum(shares.values())
        products = seconds * shares["products"]
        print(f"{name}: {1e3 * seconds:.1f} ms a step; products {2e-9 * rows * read / products:.0f}"
              f" GFLOP/s, {4e-9 * read / products:.1f} GB/s")  # fmt: skip
        print("  " + ", ".join(f"{part} {100 * share:.0f} %" for part, share in shares.items()))
        found[name] = shares
    return found


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--block", type=int, default=16)
    parser.add_argument("--quota", type=int, default=4, help="tokens that a pass fills")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--plain-prompt", type=int, default=128, help="without a cache")
    parser.add_argument("--plain-new", type=int, default=32, help="without a cache")
    parser.add_argument("--fuse", action="store_true", help="the step with merged weights")
    parser.add_argument("--profile", action="store_true", help="where the time of a step goes")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    ours, theirs = models(options.width, options.layers, options.block)
    generator = torch.Generator().manual_seed(1)
    prompt = torch.randint(0, END, (options.prompt,), generator=generator).tolist()
    with torch.no_grad():  # merged weights are no inference tensors
        step, partner = step_functions(ours, theirs, prompt, options.block, options.fuse)
        torch.testing.assert_close(step(), partner(), rtol=1e-3, atol=1e-3)
        if options.profile:
            return profile(ours, {"dpad": step, "Transformers": partner}, options.block)
        found = {"step": ratio("one cached step", step, partner, options.rounds, repeats=5)}
    sizes = (prompt, options.new), (prompt[: options.plain_prompt], options.plain_new)
    for (text, new), cached in zip(sizes, (True, False), strict=True):
        given = text, min(new, options.new), options.block, options.quota
        ways = (
            lambda given=given: dpad_decode(ours, *given),
            lambda given=given, cached=cached: plain_decode(theirs, *given, cached),
        )
        wanted = [way() for way in ways]
        same = sum(a == b for a, b in zip(*wanted, strict=True))
        assert same == len(wanted[0]), f"{same} of {len(wanted[0])} tokens are equal"
        name = "decoding" if cached else "decoding, by the plain one without a cache"
        found[name] = ratio(name, *ways, options.rounds if cached else min(options.rounds, 3))
    return found


if __name__ == "__main__":
    main()
