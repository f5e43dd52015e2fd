"""Published ways to decode and dpad's own beside each other: the cells of the group "beside".

Every way decodes the whole canvas, for a text that ends early says nothing of its length; what
ending with the text is worth is a factor of its own. Each way adds one thing to the one before.
"""

from dataclasses import dataclass, replace

from benchmarks.cells import FULL, SUFFIXES, Cell, accuracy
from benchmarks.measure import Arm, Tiny

PAPER = SUFFIXES["gaussian k 3, a 1.6, window 64"]


@dataclass(frozen=True)
class Way:
    """A name, what it adds, who is timed ("ordinary", "reference" or "dpad"), and how."""

    name: str
    adds: str
    who: str
    arm: Arm
    int8: bool = False


def ways(dropout):
    """All of them, in order; `dropout` is the model's default suffix in dpad."""
    fast = Arm(FULL, "dual", False)
    paper, own = replace(fast, suffix=PAPER), replace(fast, suffix=dropout)
    recent = replace(own, refresh="recent")
    plain = Arm(FULL, "none", False, threshold=None)
    return (
        Way("plain", "one token per step", "ordinary", plain),
        Way("Fast-dLLM", "parallel commits, dual cache", "reference", fast),
        Way("DPad", "suffix dropout", "reference", paper),
        Way("dpad, DPad's settings", "kernels and loop", "dpad", paper),
        Way("dpad, near suffix", "the nearest positions", "dpad", own),
        Way("dpad, recent refresh", "refreshes that look back", "dpad", recent),
        Way("dpad, 8-bit", "8-bit products", "dpad", recent, True),
        Way("dpad, early stop", "no blocks behind the end", "dpad",
            replace(recent, early_stop=True), True),
    )  # fmt: skip


def _decode(tiny, way, problem, canvas):
    """(tokens, seconds) of one problem."""
    rows = slice(problem, problem + 1)
    if way.who == "ordinary":
        out, spent = tiny.solve_ordinarily(rows, canvas)
        return out.tokens, spent
    if way.who == "reference":
        out, spent = tiny.solve_by_reference(rows, canvas, way.arm, problem)
        return out.tokens, spent
    out, spent = tiny.solve(rows, canvas, way.arm, [problem])
    return out.sequences, spent


def in_turns(tinies, canvas, rounds, step):
    """All ways on the same problems, batch 1, in alternating order.

    Returns a dict: "seconds" per way, and what it "adds"; "equal" of "checked": rows of the
    published ways that dpad decodes to the same tokens with the same settings, for its accuracies
    stand for theirs.
    """
    found = ways(tinies[False].dropout)
    seconds = {way.name: [] for way in found}
    for way in found[1:]:  # plain has steps enough to make its own start-up small
        _decode(tinies[way.int8], way, 0, canvas)
    equal = checked = 0
    for problem in range(rounds):
        for way in found if problem % 2 else found[::-1]:
            tokens, spent = _decode(tinies[way.int8], way, problem, canvas)
            seconds[way.name].append(spent)
            if way.who == "reference" or (way.who == "ordinary" and problem == 0):
                ours, _ = _decode(tinies[False], replace(way, who="dpad"), problem, canvas)
                equal, checked = equal + tokens.equal(ours), checked + 1
            step()
    adds = {way.name: way.adds for way in found}
    return {"seconds": seconds, "adds": adds, "equal": equal, "checked": checked, "rows": rounds}


def cells(options):
    """A cell of times per canvas, and one of accuracies per canvas and way."""
    most = max(options.beside_problems, options.beside_rounds, options.plain_problems)
    tinies = {int8: Tiny(most, options.seed, int8=int8) for int8 in (False, True)}
    common = {"model": tinies[False].fingerprint, "seed": options.seed, "kind": "beside"}
    found, batch, rounds = ways(tinies[False].dropout), options.batch, options.beside_rounds
    arms = {way.name: {**way.arm.settings(), "int8": way.int8} for way in found}
    for canvas in options.beside_canvases:
        timed = {**common, "canvas": canvas, "problems": rounds, "batch": 1, "ways": arms}
        yield Cell(
            f"beside-{canvas}-times",
            timed,
            rounds * len(found),
            lambda step, canvas=canvas: in_turns(tinies, canvas, rounds, step),
        )
        for number, way in enumerate(found):
            count = options.beside_problems if number else options.plain_problems
            scored = {**common, "canvas": canvas, "problems": count, "batch": batch}
            yield Cell(
                f"beside-{canvas}-{number}",
                {**scored, **arms[way.name], "label": way.name},
                -(-count // batch),
                lambda step, canvas=canvas, way=way, count=count: accuracy(
                    tinies[way.int8], canvas, way.arm, count, batch, step
                ),
            )
