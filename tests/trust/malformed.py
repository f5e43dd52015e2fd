"""Calls that are wrong in one respect, in child processes: refused, and nothing else.

Each is a valid random call with one change that makes it invalid whatever the rest is: a dtype, a
shape, None, another device, a value out of range, memory that is shared. It has to end in an
exception that names the operator, the argument and the value, within ten seconds, and to leave the
written arguments as they were. A child that dies of a signal is found by its number and the run
goes on behind it.
"""

import random

import torch

from dpad import ops
from dpad.ops import inputs
from dpad.ops._signatures import DTYPES, FLOATS, SIGNATURES
from tests.ops.op_helpers import assert_same_bits
from tests.trust import children
from tests.trust.children import serve
from tests.trust.draws import call
from tests.trust.report import Report

MOST, NAN = 2**63 - 1, float("nan")

# Integer tensors with a range: operator, argument, least value, name of the size that ends it.
RANGES = {
    ("suffix_gather", "canvas_row"): (0, "canvas_rows"),
    ("suffix_gather", "position"): (0, "length"),
    ("rope_kv_write_", "q_position"): (0, "positions"),
    ("rope_kv_write_", "position"): (0, "positions"),
    ("rope_kv_write_", "slot"): (-1, "slots"),
    ("rope_kv_write_", "kv_start"): (0, None),
    ("block_attention", "kv_start"): (0, None),
    ("block_attention", "n_keys"): (0, None),
    ("grouped_linear", "offsets"): (0, None),
    ("grouped_swiglu", "offsets"): (0, None),
    ("grouped_swiglu", "row"): (0, "rows"),
    ("combine", "order"): (0, "pairs"),
    ("confidence", "suppress"): (0, "vocab"),
    ("confidence", "exclude"): (0, "vocab"),
    ("unmask_", "canvas_row"): (0, "canvas_rows"),
    ("unmask_", "position"): (0, "length"),
    ("plan_pass", "start"): (0, None),
    ("plan_pass", "first"): (0, None),
    ("plan_pass", "first_target"): (0, None),
    ("plan_pass", "unseen"): (0, None),
    ("plan_pass", "predecessor"): (0, None),
    ("plan_pass", "scope"): (0, None),
    ("plan_pass", "kept_count"): (0, None),
}
# Scalars: wrong values, and the value that the message has to show.
_TABLE = (
    ("kind", "cauchy"),
    ("grid", "moon"),
    ("near", -1),
    ("near", -(2**63)),
    ("length", -1),
    ("length", 2**40),
    ("kind", None),
    ("window", "wide"),
    ("decay", "steep"),
)
SCALARS = {
    "suffix_table": _TABLE,
    "suffix_sample": (*_TABLE[:6], ("count", "some")),
    "transfer_schedule": (("masks", -1), ("steps", 0), ("steps", 2**40), ("steps", "few")),
    "plan_pass": (
        ("shift", 2),
        ("shift", -1),
        ("shift", MOST),
        ("shift", "one"),
        ("block_length", -1),
        ("block_length", MOST),
    ),
    "suffix_gather": (("mask_id", 1.5), ("mask_id", "mask")),
    "rope_kv_write_": (("full_precision", "no"),),
    "block_attention": (("scale", "small"), ("scale", None)),
    "add_rms_norm_": (("eps", "tiny"), ("eps", None)),
    "route": (
        ("top_k", 0),
        ("top_k", 2**40),
        ("score", "tanh"),
        ("normalise", "no"),
        ("groups", 0),
        ("groups", 2**40),
        ("top_groups", 0),
        ("top_groups", 99),
        ("scaling", NAN),
        ("scaling", "large"),
    ),
    "combine": (("full_precision", "no"),),
    "confidence": (("round_to_dtype", "yes"),),
    "unmask_": (
        ("rule", len(ops.RULES)),
        ("rule", -1),
        ("rule", MOST),
        ("rule", "best"),
        ("early_stop", "no"),
        ("mask_id", 1.5),
        ("fill_id", None),
    ),
}


class Wrong:
    """One call; `argument` is what is wrong, `value` what the message has to show of it."""

    def __init__(self, seed):
        draw = self.draw = random.Random(~seed)
        while True:
            self.name, _, self.arguments = call(draw.randrange(2**40))
            self.argument = self.value = self.others = None
            kinds = (self._scalar, self._dtype, self._rank, self._size, self._none)
            kinds += (self._device, self._value, self._offsets, self._shared, self._layout)
            kind = draw.choice(kinds)
            if kind():
                self.kind = kind.__name__[1:]
                return

    def _tensor(self, *names):
        """Draws one of the tensor arguments that are there."""
        there = [o for o in SIGNATURES[self.name].operands if self.arguments[o.name] is not None]
        there = [o for o in there if not names or o.name in names]
        if not there:
            return None
        operand = self.draw.choice(there)
        self.argument = operand.name
        return operand

    def _put(self, value, *shown):
        self.arguments = {**self.arguments, self.argument: value}
        self.value = shown
        return True

    def _alone(self):
        """True for calls of one tensor: without it torch finds no operator."""
        return sum(isinstance(v, torch.Tensor) for v in self.arguments.values()) < 2

    def _scalar(self):
        if self.name not in SCALARS:
            return False
        self.argument, value = self.draw.choice(SCALARS[self.name])
        return self._put(value, str(value)[:6])

    def _dtype(self):
        operand = self._tensor()
        if operand is None:
            return False
        good = (DTYPES.get(operand.dtype),) if operand.dtype in DTYPES else FLOATS
        every = (*FLOATS, torch.float64, torch.int64, torch.int32, torch.bool, torch.complex64)
        bad = self.draw.choice([d for d in every if d not in good])
        return self._put(self.arguments[self.argument].to(bad), "dtype")

    def _rank(self):
        if self._tensor() is None:
            return False
        value = self.arguments[self.argument]
        value = value[0] if value.shape[0] and self.draw.random() < 0.5 else value[None]
        return self._put(value, str(list(value.shape)))

    def _size(self):
        """One size of two that have to agree."""
        operand = self._tensor()
        if operand is None:
            return False
        others = [o for o in SIGNATURES[self.name].operands if self.arguments[o.name] is not None]
        bound = {s.split(" ")[0] for o in others if o is not operand for s in o.sizes}
        places = [d for d, s in enumerate(operand.sizes) if s.split(" ")[0] in bound]
        if not places:
            return False
        d, value = self.draw.choice(places), self.arguments[self.argument]
        if value.shape[d] and self.draw.random() < 0.5:
            value = value.narrow(d, 0, value.shape[d] - 1)
        else:
            value = torch.cat(
                (value, value.new_zeros(value.shape[:d] + (1,) + value.shape[d + 1 :])), d
            )
        self.others = True  # either of the two may be named
        return self._put(value)

    def _none(self):
        operand = self._tensor()
        if operand is None or operand.optional or self._alone():
            return False
        return self._put(None, "None")

    def _device(self):
        if self._alone():
            return False
        self._tensor()
        self.others = True
        return self._put(self.arguments[self.argument].to("meta"), "device")

    def _value(self):
        places = [key for key in RANGES if key[0] == self.name]
        if not places or self._tensor(*(a for _, a in places)) is None:
            return False
        value = self.arguments[self.argument].clone()
        if value.numel() == 0:
            return False
        least, end = RANGES[self.name, self.argument]
        bad = [least - 1, -(2**31)] if value.dtype == torch.int32 else [least - 1, -(2**40), -MOST]
        if end is not None:
            bad += [self._sizes()[end], 2**40, MOST]
        bad = self.draw.choice(bad)
        value.view(-1)[self.draw.randrange(value.numel())] = bad
        return self._put(value, str(bad) if abs(bad) < 2**53 else "")

    def _sizes(self):
        found = {}
        for operand in SIGNATURES[self.name].operands:
            tensor = self.arguments[operand.name]
            if tensor is not None:
                found |= dict(zip(operand.sizes, tensor.shape, strict=True))
        found["pairs"] = found.get("rows * top_k")
        return found

    def _offsets(self):
        if self._tensor("q_offsets", "l_offsets") is None:
            return False
        value = self.arguments[self.argument].clone()
        place, by = self.draw.choice((0, -1)), self.draw.choice((-(2**40), -1, 1, 7, MOST // 2))
        total = int(value[-1])
        value[place] += by
        if value.numel() == 1 and total == 0:
            return False
        return self._put(value, str(total))

    def _shared(self):
        """A written argument and another one in the same memory."""
        written = inputs.WRITTEN.get(self.name)
        if not written or self._tensor() is None:
            return False
        target = self.draw.choice([w for w in written if w != self.argument] or [None])
        if target is None:
            return False
        here, there = self.arguments[self.argument], self.arguments[target]
        raw = there.flatten().view(torch.uint8)
        bytes_ = here.numel() * here.element_size()
        if not here.numel() or bytes_ > raw.numel() or raw.data_ptr() != there.data_ptr():
            return False
        self.others = True
        placed = raw[:bytes_].view(here.dtype).view(here.shape)
        if here.dtype == torch.int64:
            placed.copy_(here)  # its values stay right
        return self._put(placed, "shares memory")

    def _layout(self):
        """Written twice by one call, or a last dimension that is not contiguous."""
        written = inputs.WRITTEN.get(self.name)
        if not written or self._tensor(*written) is None:
            return False
        value = self.arguments[self.argument]
        if value.dim() < 2 or 0 in value.shape:
            return False
        if self.draw.random() < 0.5 and value.shape[-1] > 1:
            return self._put(value.repeat_interleave(2, -1)[..., ::2], "stride", "contiguous")
        if value.shape[0] < 2:
            return False
        return self._put(value[:1].expand_as(value), "overlap", "contiguous", "stride")

    def __str__(self):
        return f"{self.name}, {self.kind} of {self.argument}"


def verdict(wrong, operators=torch.ops.dpad):
    """None where the call was refused as it has to be, else what was wrong with the refusal."""
    written = [wrong.arguments[a] for a in inputs.WRITTEN.get(wrong.name, ())]
    held = [t.clone() for t in written if isinstance(t, torch.Tensor)]
    try:
        getattr(operators, wrong.name)(*wrong.arguments.values())
    except Exception as error:
        text = str(error)
    else:
        return "accepted"
    if f"dpad::{wrong.name}" not in text:
        return f"the operator is not named: {text[:200]}"
    named = f"'{wrong.argument}'" in text or (wrong.others and "argument '" in text)
    if not named:
        return f"the argument is not named: {text[:200]}"
    if wrong.value and not any(value in text for value in wrong.value):
        return f"no word of {' or '.join(wrong.value)}: {text[:200]}"
    for before, now in zip(held, [t for t in written if isinstance(t, torch.Tensor)], strict=True):
        if now.is_cpu:
            try:
                assert_same_bits(now, before)
            except AssertionError:
                return "a written argument was changed"
    return None


def child(seed, cases, operators=torch.ops.dpad):
    torch.set_num_threads(1)  # nothing of a refused call is worth a team
    serve(seed, cases, Wrong, lambda wrong: verdict(wrong, operators))


def run(seed, cases, code="malformed.child({seed}, {cases})"):
    """`cases` wrong calls; figures: signals, hangs, accepted, and refusals that say too little."""
    return children.run(
        Report("malformed"), seed, cases, f"from tests.trust import malformed; {code}"
    )
