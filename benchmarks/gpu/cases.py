"""The operator benchmarks' cases: our call, its stock peers, what both have to give, and bytes."""

import functools
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from dpad import ops
from dpad.ops import inputs


@dataclass
class Case:
    """One comparison. Functions take nothing; results are tensors or tuples of tensors.

    `expected` gives the result in a wider dtype, `tolerance` is the allowed error as a share of
    its largest value, `unavailable` says why a peer is not there, `sizes` are what goals ask for.
    """

    name: str
    functions: dict  # "dpad" and the peers
    expected: Callable
    bytes: int
    tolerance: float
    unavailable: dict = field(default_factory=dict)
    sizes: dict = field(default_factory=dict)
    operations: int = 0

    def difference(self, found, expected):
        """None, or what is wrong."""
        found, expected = (x if isinstance(x, tuple) else (x,) for x in (found, expected))
        for a, b in zip(found, expected, strict=True):
            if not b.is_floating_point():
                if not torch.equal(a, b):
                    return f"{int((a != b).sum())} of {b.numel()} integers differ"
                continue
            error = (a.double() - b.double()).abs().max().item()
            allowed = self.tolerance * b.double().abs().max().item()
            if not error <= allowed:
                return f"error {error:.1e}, allowed {allowed:.1e}"
        return None

    def check(self):
        """What is wrong with dpad's result, or None. Peers that refuse the case or whose result is
        wrong are not there.
        """
        expected = self.expected()
        for name in list(self.functions):
            try:
                problem = self.difference(self.functions[name](), expected)
            except Exception as error:
                if name == "dpad":
                    raise
                problem = (str(error).splitlines() or [type(error).__name__])[0]
            if problem is None:
                continue
            if name == "dpad":
                return problem
            self.unavailable[name] = problem
            del self.functions[name]
        return None


def drawn(name, device, **sizes):
    """Arguments of an operator on the device, in bfloat16."""
    return inputs.make(name, 0, torch.bfloat16, device=device, **sizes)


def size_of(*tensors):
    return sum(t.numel() * t.element_size() for t in tensors)


def attention(device, batch, queries, heads, kv_heads, keys, dim=128, spare=128):
    """A pass's attention: `queries` rows of each sequence over its `keys` slots."""
    new = {"device": device, "dtype": torch.bfloat16}
    q = torch.randn(batch * queries, heads, dim, **new)
    room = keys + spare  # slots of a sequence
    arenas = [torch.randn(kv_heads, batch * room, dim, **new) for _ in range(2)]
    k_cache, v_cache = (t.unflatten(1, (batch, room)).transpose(0, 1) for t in arenas)
    index = functools.partial(torch.tensor, device=device)
    offsets = index([i * queries for i in range(batch + 1)])
    start, n_keys = index([b * room for b in range(batch)]), index([keys] * batch)
    slices = [cache[:, :, :keys] for cache in (k_cache, v_cache)]
    exact = [t.contiguous() for t in slices]
    dense = q.view(batch, queries, heads, dim).transpose(1, 2)
    mask = (torch.arange(room, device=device) < keys).expand(batch, 1, queries, -1)
    group = {"enable_gqa": heads != kv_heads}

    def stock(backend, *tensors, **options):
        with sdpa_kernel(backend):
            out = F.scaled_dot_product_attention(dense, *tensors, **group, **options)
        return out.transpose(1, 2).reshape(q.shape)

    def expected():
        out = torch.empty(q.shape, dtype=torch.float32, device=device)
        for b in range(batch):
            wide = [t[b].float().repeat_interleave(heads // kv_heads, 0) for t in exact]
            scores = dense[b].float() @ wide[0].transpose(1, 2) * dim**-0.5
            out[b * queries : (b + 1) * queries] = (scores.softmax(-1) @ wide[1]).transpose(0, 1)
        return out

    functions = {
        "dpad": lambda: ops.block_attention(q, *arenas, offsets, start, n_keys, dim**-0.5),
        "SDPA flash, exact length": lambda: stock(SDPBackend.FLASH_ATTENTION, *exact),
        "SDPA flash, slices of the cache": lambda: stock(SDPBackend.FLASH_ATTENTION, *slices),
        "SDPA cuDNN, exact length": lambda: stock(SDPBackend.CUDNN_ATTENTION, *exact),
        "SDPA efficient, exact length": lambda: stock(SDPBackend.EFFICIENT_ATTENTION, *exact),
        "SDPA efficient, dense mask": lambda: stock(
            SDPBackend.EFFICIENT_ATTENTION, k_cache, v_cache, attn_mask=mask
        ),
        "SDPA math, exact length": lambda: stock(SDPBackend.MATH, *exact),
    }
    case = Case(
        f"block_attention {batch} x {queries} rows, {heads}/{kv_heads} heads of {dim}, {keys} keys",
        functions,
        expected,
        2 * size_of(q) + size_of(*exact),
        2**-6,
        sizes={"batch": batch, "queries": queries, "kv_heads": kv_heads, "keys": keys},
        operations=4 * q.numel() * keys,
    )
    add_packages(case, q, exact, batch, queries)
    return case


def add_packages(case, q, exact, batch, queries):
    """flash-attn and FlashInfer, where they are installed."""
    rows = q.view(batch, queries, *q.shape[1:])
    turned = [t.transpose(1, 2) for t in exact]

    def flash_attn():
        from flash_attn import flash_attn_func

        return flash_attn_func(rows, *turned).view(q.shape)

    def flashinfer():
        from flashinfer import single_prefill_with_kv_cache

        k, v = (t[0] for t in exact)
        return single_prefill_with_kv_cache(q, k, v, kv_layout="HND", causal=False, backend="fa2")

    for function in (flash_attn, flashinfer):
        name = function.__name__
        if importlib.util.find_spec(name) is None:
            case.unavailable[name] = "not installed"
        elif name == "flashinfer" and batch > 1:
            case.unavailable[name] = "asked for one sequence only"
        else:
            case.functions[name] = function


def confidence(device, rows, vocab, temperature=0.0):
    options = {"counts": (rows,), "vocab": vocab, "temperature": (temperature,)}
    args = drawn("confidence", device, **options, suppress=0, exclude=0)
    logits = args["logits"]
    logits.scatter_(1, torch.arange(rows, device=device)[:, None] * 3, 24.0)  # no ties

    def ours():
        return ops.confidence(**args)[:2]

    def published():
        p = torch.softmax(logits.double(), -1)
        token = p.argmax(-1)
        return token, p.gather(-1, token[:, None])[:, 0]

    def float32():
        wide = logits.float()
        best, token = wide.max(-1)
        return token, torch.exp(best - torch.logsumexp(wide, -1))

    def twin():
        return ops.reference.confidence(**args)[:2]

    functions, expected = {"dpad": ours}, twin
    if temperature == 0:
        functions |= {"float64 soft-max": published, "float32 logsumexp": float32}
        expected = published
    name = f"confidence {rows} x {vocab}, temperature {temperature:g}"
    sizes = {"rows": rows, "vocab": vocab, "temperature": temperature}
    return Case(name, functions, expected, size_of(logits), 1e-5, sizes=sizes)


def norm(device, rows, width):
    args = drawn("add_rms_norm_", device, rows=rows, width=width)
    residual, delta, weight = (args[name] for name in ("residual", "delta", "weight"))
    delta.zero_()  # the call is repeated

    def stock():
        residual.add_(delta)
        return F.rms_norm(residual, (width,), weight, 1e-5)

    def expected():
        x = residual.float()
        return weight.float() * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)

    functions = {"dpad": lambda: ops.add_rms_norm_(**args), "torch": stock}
    size = 3 * size_of(residual) + size_of(delta, weight) - size_of(residual) // 2
    return Case(f"add_rms_norm_ {rows} x {width}", functions, expected, size, 2**-6)


def swiglu(device, rows, width):
    gate, up = drawn("swiglu", device, rows=rows, width=width).values()
    functions = {"dpad": lambda: ops.swiglu(gate, up), "torch": lambda: F.silu(gate) * up}
    expected = lambda: F.silu(gate.float()) * up.float()  # noqa: E731
    return Case(f"swiglu {rows} x {width}", functions, expected, 3 * size_of(gate), 2**-6)


def rope(device, rows, heads, kv_heads, dim=128, capacity=1152):
    new = {"device": device, "dtype": torch.bfloat16}
    q, k, v = (torch.randn(rows, n, dim, **new) for n in (heads, kv_heads, kv_heads))
    caches = [torch.zeros(kv_heads, capacity, dim, **new) for _ in range(2)]
    position = torch.arange(capacity - rows, capacity, device=device)
    angle = torch.arange(capacity, device=device)[:, None] * 1e4 ** (
        -torch.arange(dim // 2, device=device) / (dim // 2)
    )
    cos, sin = angle.cos(), angle.sin()
    offsets = torch.tensor([0, rows], device=device)
    start = torch.zeros(1, device=device).long()

    def turned(x):
        low, high = x.float().chunk(2, -1)
        c, s = cos[position, None], sin[position, None]
        return torch.cat((low * c - high * s, high * c + low * s), -1)

    def ours():
        index = (position, position, position, offsets, start)
        return ops.rope_kv_write_(q, k, v, *index, cos, sin, *caches), caches[0].clone()

    def stock():
        caches[0][:, position] = turned(k).to(k.dtype).transpose(0, 1)
        caches[1][:, position] = v.transpose(0, 1)
        return turned(q).to(q.dtype), caches[0].clone()

    def expected():
        return stock()

    size = 2 * size_of(q, k, v)
    return Case(
        f"rope_kv_write_ {rows} rows, {heads}/{kv_heads} heads, with a copy of K",
        {"dpad": ours, "torch": stock},
        expected,
        size + 2 * size_of(caches[0]),
        0.0,
    )


def gather(device, batch, rows, length):
    canvas = torch.randint(0, 1000, (batch, length), device=device)
    row = torch.arange(batch, device=device)
    position = torch.arange(length - rows, length, device=device).repeat(batch)
    offsets = torch.arange(batch + 1, device=device) * rows
    row_of = row.repeat_interleave(rows)
    functions = {
        "dpad": lambda: ops.suffix_gather(canvas, row, offsets, position),
        "torch": lambda: canvas[row_of, position],
    }
    return Case(
        f"suffix_gather {batch} x {rows} rows", functions, functions["torch"], 24 * batch * rows, 0
    )


def commits(device, rows, length):
    """One sequence by threshold; the canvas is masked again before every call."""
    start = torch.randint(0, 1000, (1, length), device=device)
    start[:, -rows:] = mask = 2000
    canvas, at = start.clone(), torch.zeros_like(start)
    wide = {"dtype": torch.float64, "device": device}
    index = functools.partial(torch.tensor, device=device)
    state = (at, torch.zeros(1, length, **wide), index([0]), index([0]), index([0]))
    position = torch.arange(length - rows, length, device=device)
    token = torch.randint(0, 1000, (rows,), device=device)
    score = torch.rand(rows, **wide)
    batch = (torch.full((1,), 0.9, **wide), index([rows]), index([length]), index([3]))
    rule = (ops.RULES["threshold"], True, mask, 3)
    rows_of = (index([0]), index([0, rows]), position, token, score, score)

    def ours():
        canvas.copy_(start)
        ops.unmask_(canvas, *state, *rows_of, *batch, *rule)
        return canvas.clone()

    def stock():
        canvas.copy_(start)
        block = canvas[0, position]
        ranked = torch.where(block == mask, score, -torch.inf)
        chosen = (ranked >= 0.9).index_fill(0, ranked.argmax(), True)
        canvas[0, position] = torch.where(chosen, token, block)
        return canvas.clone()

    size = 4 * size_of(start) + 5 * size_of(token)
    functions = {"dpad": ours, "torch": stock}
    return Case(f"unmask_ {rows} rows, with copies of the canvas", functions, stock, size, 0)


def route(device, rows, experts, top_k=8):
    """Logits so far apart that rounding changes no choice."""
    logits = torch.rand(rows, experts, device=device).argsort(-1) / 8
    twin = (logits, None, top_k, "softmax", True, 1, 1, 1.0)
    functions = {
        "dpad": lambda: ops.route(logits, None, top_k),
        "torch": lambda: ops.reference.route(*twin),
    }
    size = size_of(logits) + 20 * rows * top_k + 4 * experts
    return Case(f"route {rows} x {experts}", functions, functions["torch"], size, 1e-5)


def combine(device, rows, width, top_k=8):
    y = torch.randn(rows * top_k, width, device=device).bfloat16()
    order = torch.randperm(rows * top_k, device=device)
    weight, place = torch.rand(rows, top_k, device=device), order.argsort()
    terms = lambda: y[place].view(rows, top_k, width).float() * weight[..., None]  # noqa: E731
    functions = {
        "dpad": lambda: ops.combine(y, order, weight),
        "torch": lambda: terms().sum(1).to(y.dtype),
    }
    size = size_of(y, order, weight) + size_of(y) // top_k
    return Case(f"combine {rows} x {width}", functions, lambda: terms().sum(1), size, 2**-6)


def makers(device, small=False):
    """Functions that make the cases, one after the other: their tensors are large. What goals ask
    for comes first.
    """
    bind = functools.partial
    if small:
        attended = [(1, 4, 4, 2, 70, 64)]
        sampled, wide, rotated = [(2, 300, 0.0), (2, 300, 1.0)], [(3, 64)], [(3, 4, 2, 64, 20)]
    else:
        llada, dream = (32, 32), (28, 4)
        attended = [(1, 32, *llada, n) for n in (8192, 1024, 4096, 512)]
        attended += [(4, 32, *llada, 4096), (16, 32, *llada, 1024), (16, 32, *llada, 4096)]
        attended += [(1, rows, *llada, 1024) for rows in (33, 96)]
        attended += [(1, 33, *dream, n) for n in (1024, 8192)] + [(16, 33, *dream, 4096)]
        sampled = [(n, 126464, t) for t in (0.0, 1.0) for n in (32, 4, 128)]
        wide = [(32, 4096), (128, 4096)]
        rotated = [(32, 32, 32), (33, 28, 4)]
    routed = [3] if small else [32, 256]
    yield from (bind(confidence, device, *a) for a in sampled[:1])
    yield from (bind(attention, device, *a) for a in attended)
    yield from (bind(confidence, device, *a) for a in sampled[1:])
    yield from (bind(norm, device, *a) for a in wide)
    yield from (bind(swiglu, device, rows, 3 * width) for rows, width in wide)
    yield from (bind(rope, device, *a) for a in rotated)
    yield from (bind(route, device, rows, 64) for rows in routed)
    yield from (bind(combine, device, rows, 2048) for rows in routed)
    yield bind(gather, device, 4, 32, 1024)
    yield bind(commits, device, 32, 1024)
