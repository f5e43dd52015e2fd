"""The operator benchmarks' cases: our call, its stock peers, what both have to give, and bytes."""

import functools
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu.timing import in_a_line
from dpad import ops
from dpad.ops import inputs, reference


@dataclass
class Case:
    """One comparison. Functions take nothing; results are tensors or tuples of tensors.

    `expected` gives the result in a wider dtype, `tolerance` is the allowed error as a share of
    its largest value, `unavailable` says why a peer is not there.
    """

    name: str
    functions: dict  # "dpad" and the peers
    expected: Callable
    bytes: int
    tolerance: float
    operations: int = 0
    unavailable: dict = field(default_factory=dict)

    def check(self):
        """Raises where dpad's result is wrong. Peers that refuse the case or whose result is wrong
        are not there.
        """
        expected = self.expected()
        for name, function in list(self.functions.items()):
            try:
                compare(function(), expected, self.tolerance)
            except Exception as error:
                if name == "dpad":
                    raise
                self.unavailable[name] = in_a_line(error)
                del self.functions[name]


def compare(found, expected, tolerance):
    """Raises AssertionError where an integer differs, or a number by more than it may."""
    found, expected = (x if isinstance(x, tuple) else (x,) for x in (found, expected))
    for a, b in zip(found, expected, strict=True):
        allowed = tolerance * b.abs().max().item() if b.is_floating_point() else 0
        torch.testing.assert_close(a, b, rtol=0, atol=allowed, check_dtype=False)


def drawn(name, device, **sizes):
    """Arguments of an operator on the device, in bfloat16."""
    return inputs.make(name, 0, torch.bfloat16, device=device, **sizes)


def size_of(*tensors):
    return sum(t.nbytes for t in tensors)


def wide(args):
    """The arguments with float32 for bfloat16."""
    narrow = lambda x: isinstance(x, torch.Tensor) and x.dtype == torch.bfloat16  # noqa: E731
    return {name: x.float() if narrow(x) else x for name, x in args.items()}


def attention(device, batch, queries, heads, kv_heads, keys, dim=128, spare=128):
    """A pass's attention: `queries` rows of each sequence over its `keys` slots."""
    sizes = {"heads": heads, "kv_heads": kv_heads, "head_dim": dim, "gap": spare}
    sizes |= {"counts": (queries,) * batch, "keys": (keys,) * batch, "mask": False, "limit": False}
    args = drawn("block_attention", device, **sizes)
    args["kv_start"] = args["kv_start"].sort().values
    q, room = args["q"], keys + spare  # slots of a sequence
    rows = q.view(batch, queries, heads, dim)
    caches = [
        args[name][:, spare:].unflatten(1, (batch, room)).transpose(0, 1)
        for name in ("k_cache", "v_cache")
    ]
    slices = [cache[:, :, :keys] for cache in caches]
    exact = [t.contiguous() for t in slices]
    mask = (torch.arange(room, device=device) < keys).expand(batch, 1, queries, -1)

    def stock(backend, k_and_v, **options):
        with sdpa_kernel(backend):
            grouped = {"enable_gqa": heads != kv_heads, **options}
            out = F.scaled_dot_product_attention(rows.transpose(1, 2), *k_and_v, **grouped)
        return out.transpose(1, 2).reshape(q.shape)

    kinds = {
        "SDPA flash, exact length": (SDPBackend.FLASH_ATTENTION, exact),
        "SDPA flash, slices of the cache": (SDPBackend.FLASH_ATTENTION, slices),
        "SDPA cuDNN, exact length": (SDPBackend.CUDNN_ATTENTION, exact),
        "SDPA efficient, exact length": (SDPBackend.EFFICIENT_ATTENTION, exact),
        "SDPA math, exact length": (SDPBackend.MATH, exact),
    }
    peers = {name: functools.partial(stock, *kind) for name, kind in kinds.items()}
    masked = functools.partial(stock, SDPBackend.EFFICIENT_ATTENTION, caches, attn_mask=mask)
    packages, missing = packages_of(rows, exact)
    ours = functools.partial(ops.block_attention, **args)
    return Case(
        f"block_attention {batch} x {queries} rows, {heads}/{kv_heads} heads of {dim}, {keys} keys",
        {"dpad": ours, **peers, "SDPA efficient, dense mask": masked, **packages},
        lambda: reference.block_attention(**wide(args)),
        2 * size_of(q) + size_of(*exact),
        2**-6,
        4 * q.numel() * keys,
        missing,
    )


def packages_of(rows, exact):
    """flash-attn and FlashInfer as functions, where they are installed, and why they are not."""

    def flash_attn():
        from flash_attn import flash_attn_func

        return flash_attn_func(rows, *(t.transpose(1, 2) for t in exact)).flatten(0, 1)

    def flashinfer():
        from flashinfer import single_prefill_with_kv_cache

        k, v = (t[0] for t in exact)
        how = {"kv_layout": "HND", "causal": False, "backend": "fa2"}
        return single_prefill_with_kv_cache(rows[0], k, v, **how)

    found, missing = {}, {}
    for function in (flash_attn, flashinfer):
        name = function.__name__
        if importlib.util.find_spec(name) is None:
            missing[name] = "not installed"
        elif function is flashinfer and len(rows) > 1:
            missing[name] = "asked for one sequence only"
        else:
            found[name] = function
    return found, missing


def confidence(device, rows, vocab, temperature=0.0):
    sizes = {"counts": (rows,), "vocab": vocab, "temperature": (temperature,)}
    args = drawn("confidence", device, **sizes, suppress=0, exclude=0)
    logits = args["logits"]
    logits.scatter_(1, torch.arange(rows, device=device)[:, None] * 3, 24.0)  # no ties

    def published():
        p = torch.softmax(logits.double(), -1)
        token = p.argmax(-1)
        return token, p.gather(-1, token[:, None])[:, 0]

    def float32():
        best, token = logits.float().max(-1)
        return token, torch.exp(best - torch.logsumexp(logits.float(), -1))

    peers = {"float64 soft-max": published, "float32 logsumexp": float32}
    return Case(
        f"confidence {rows} x {vocab}, temperature {temperature:g}",
        {"dpad": lambda: ops.confidence(**args)[:2], **(peers if temperature == 0 else {})},
        published if temperature == 0 else lambda: reference.confidence(**args)[:2],
        size_of(logits),
        1e-5,
    )


def of_one_peer(operator, name, args, peer, size, tolerance):
    """A case whose expected result is the twin's, of float32 for bfloat16."""
    ours = functools.partial(getattr(ops, operator), **args)
    twin = lambda: getattr(reference, operator)(**wide(args))  # noqa: E731
    return Case(f"{operator} {name}", {"dpad": ours, "torch": peer}, twin, size, tolerance)


def norm(device, rows, width):
    args = drawn("add_rms_norm_", device, rows=rows, width=width)
    residual, delta, weight, eps = args.values()
    delta.zero_()  # the call is repeated
    stock = lambda: F.rms_norm(residual.add_(delta), (width,), weight, eps)  # noqa: E731
    size = size_of(residual, residual, delta, weight) + size_of(residual) // 2
    return of_one_peer("add_rms_norm_", f"{rows} x {width}", args, stock, size, 2**-6)


def swiglu(device, rows, width):
    args = drawn("swiglu", device, rows=rows, width=width)
    stock, size = functools.partial(reference.swiglu, **args), 3 * size_of(args["gate"])
    return of_one_peer("swiglu", f"{rows} x {width}", args, stock, size, 2**-6)


def rope(device, rows, heads, kv_heads, dim=128, capacity=1152):
    sizes = {"heads": heads, "kv_heads": kv_heads, "head_dim": dim, "turned": dim // 2}
    sizes |= {"counts": (rows,), "positions": capacity, "capacity": capacity, "gap": 0}
    args = drawn("rope_kv_write_", device, **sizes, padding=False)
    position = torch.arange(capacity - rows, capacity, device=device)
    args |= dict.fromkeys(("q_position", "position", "slot"), position)
    q, k, v, k_cache, v_cache = (args[name] for name in ("q", "k", "v", "k_cache", "v_cache"))

    def turned(x):
        low, high = x.float().chunk(2, -1)
        c, s = args["cos"][position, None], args["sin"][position, None]
        return torch.cat((low * c - high * s, high * c + low * s), -1).to(x.dtype)

    def stock():
        k_cache[:, position] = turned(k).transpose(0, 1)
        v_cache[:, position] = v.transpose(0, 1)
        return turned(q), k_cache.clone()

    return Case(
        f"rope_kv_write_ {rows} rows, {heads}/{kv_heads} heads, with a copy of K",
        {"dpad": lambda: (ops.rope_kv_write_(**args), k_cache.clone()), "torch": stock},
        lambda: (reference.rope_kv_write_(**args), k_cache.clone()),
        2 * size_of(q, k, v, k_cache),
        0.0,
    )


def gather(device, batch, rows, length):
    sizes = {"counts": (rows,) * batch, "canvas_rows": batch, "length": length, "hidden": False}
    args = drawn("suffix_gather", device, **sizes)
    args["position"] = torch.arange(length - rows, length, device=device).repeat(batch)
    row_of = args["canvas_row"].repeat_interleave(rows)
    stock = lambda: args["canvas"][row_of, args["position"]]  # noqa: E731
    return of_one_peer("suffix_gather", f"{batch} x {rows} rows", args, stock, 24 * batch * rows, 0)


def commits(device, rows, length):
    """One sequence by threshold; the canvas is masked again before every call."""
    sizes = {"counts": (rows,), "canvas_rows": 1, "length": length, "vocab": 1000, "quota": rows}
    args = drawn("unmask_", device, **sizes, rule=ops.RULES["threshold"], rule_value=0.9)
    position = torch.arange(length - rows, length, device=device)
    args |= {"position": position, "length": args["length"].fill_(length)}
    canvas, token, score, mask = (args[n] for n in ("canvas", "token", "score", "mask_id"))
    canvas[0, position] = mask
    start = canvas.clone()

    def after(call):
        canvas.copy_(start)
        call()
        return canvas.clone()

    def stock():
        block = canvas[0, position]
        ranked = torch.where(block == mask, score, -torch.inf)
        chosen = (ranked >= 0.9).index_fill(0, ranked.argmax(), True)
        canvas[0, position] = torch.where(chosen, token, block)

    calls = (lambda: ops.unmask_(**args), stock, lambda: reference.unmask_(**args))
    ours, peer, twin = (functools.partial(after, call) for call in calls)
    size = 4 * size_of(start) + 5 * size_of(token)
    name = f"unmask_ {rows} rows, with copies of the canvas"
    return Case(name, {"dpad": ours, "torch": peer}, twin, size, 0)


def route(device, rows, experts, top_k=8):
    """Logits so far apart that rounding changes no choice."""
    sizes = {"experts": experts, "top_k": top_k, "score": "softmax", "groups": 1, "top_groups": 1}
    args = drawn("route", device, rows=rows, **sizes, bias=False, scaling=1.0)
    args["logits"] = torch.rand(rows, experts, device=device).argsort(-1) / 8
    stock = functools.partial(reference.route, **args)
    size = size_of(args["logits"]) + 20 * rows * top_k + 4 * experts
    return of_one_peer("route", f"{rows} x {experts}", args, stock, size, 1e-5)


def combine(device, rows, width, top_k=8):
    args = drawn("combine", device, rows=rows, top_k=top_k, width=width, full_precision=True)
    y, place, weight = args["y"], args["order"].argsort(), args["weight"]
    terms = lambda: y[place].view(rows, top_k, width).float() * weight[..., None]  # noqa: E731
    stock = lambda: terms().sum(1).to(y.dtype)  # noqa: E731
    size = size_of(y, args["order"], weight) + size_of(y) // top_k
    return of_one_peer("combine", f"{rows} x {width}", args, stock, size, 2**-6)


def routed_mlp(device, rows, hidden, width):
    """A layer's routed MLP, of which a row gets 8 of 64 experts, against Transformers' own."""
    from benchmarks import routed_mlp as parts  # it needs Transformers 5

    with torch.device(device):
        case = parts.case_of(rows, hidden, width, torch.bfloat16)
    size = 6 * parts.EXPERTS * hidden * width  # about every expert is read
    functions = {"dpad": case.ours, **case.theirs}
    return Case(case.name, functions, case.theirs["loop"], size, 2**-6)


_MAKERS = (attention, confidence, norm, swiglu, rope, gather, commits, route, combine, routed_mlp)
MAKERS = {f.__name__: f for f in _MAKERS}
_LLADA, _DREAM = (32, 32), (28, 4)  # heads and K/V heads
# (name, sizes) of the cases: what goals ask for comes first.
CASES = (
    ("confidence", (32, 126464, 0.0)),
    *(("attention", (1, 32, *_LLADA, keys)) for keys in (8192, 1024, 4096, 512)),
    *(("attention", (n, 32, *_LLADA, keys)) for n, keys in ((4, 4096), (16, 1024), (16, 4096))),
    *(("attention", (1, rows, *_LLADA, 1024)) for rows in (33, 96)),
    *(("attention", (n, 33, *_DREAM, keys)) for n, keys in ((1, 1024), (1, 8192), (16, 4096))),
    *(("attention", (1, 64, *heads, keys)) for heads in (_LLADA, _DREAM) for keys in (1024, 4096)),
    *(("attention", (4, rows, *_LLADA, 4096)) for rows in (64, 128)),
    *(("confidence", (rows, 126464, 0.0)) for rows in (4, 128)),
    *(("confidence", (rows, 126464, 1.0)) for rows in (32, 4, 128)),
    *(("norm", (rows, 4096)) for rows in (32, 128)),
    *(("swiglu", (rows, 3 * 4096)) for rows in (32, 128)),
    ("rope", (32, 32, 32)),
    ("rope", (33, 28, 4)),
    *(("route", (rows, 64)) for rows in (32, 256)),
    *(("combine", (rows, 2048)) for rows in (32, 256)),
    ("gather", (4, 32, 1024)),
    ("commits", (32, 1024)),
    *(("routed_mlp", (rows, 2048, 1024)) for rows in (32, 128)),
)
SMALL = (
    ("routed_mlp", (8, 64, 32)),
    ("confidence", (2, 300, 0.0)),
    ("attention", (1, 4, 4, 2, 70, 64)),
    ("confidence", (2, 300, 1.0)),
    ("norm", (3, 64)),
    ("swiglu", (3, 192)),
    ("rope", (3, 4, 2, 64, 20)),
    ("route", (3, 64)),
    ("combine", (3, 2048)),
    ("gather", (4, 32, 1024)),
    ("commits", (32, 1024)),
)
