"""What the shipped models' answers cost: exact ones, forwards and positions computed per problem.

Full attention with its suffix, with dropout and with dropout and a dual cache, beside block-causal
attention on exact K/V: held-out problems, each model's default threshold, early stop on.

    python -m benchmarks.shipped --problems 1000 --canvas 256
"""

import argparse
import time

import torch

import dpad
from benchmarks.report import table

FULL = {"suffix": dpad.Suffix("all"), "cache": "none"}
WAYS = {
    "full suffix": FULL,
    "dropout": {},
    "dropout, dual cache": {"cache": "dual"},
}
ARMS = {
    "tiny_llada": WAYS,
    "tiny_dream": WAYS,
    "tiny_sdar": {"exact cache": {}, "no cache": {"cache": "none"}},
}


def cost(model, problems, canvas, options, batch=50):
    """{exact: per cent, forwards, positions, seconds of CPU}, per problem."""
    right = forwards = positions = 0
    begun = time.process_time()
    for first in range(0, len(problems), batch):
        part = problems[first : first + batch]
        ids = torch.tensor([p.prompt_ids for p in part])
        out = model.generate(
            ids, max_new_tokens=canvas, return_dict_in_generate=True, seed=0, **options
        )
        answers = out.sequences[:, ids.shape[1] :]
        right += sum(p.check(answer) for p, answer in zip(part, answers, strict=True))
        forwards += int(out.forwards.sum())
        positions += out.timings["positions"]
    seconds, count = time.process_time() - begun, len(problems)
    return {
        "exact": 100 * right / count,
        "forwards": forwards / count,
        "positions": positions / count,
        "seconds": seconds / count,
    }


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", type=int, default=1000)
    parser.add_argument("--canvas", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    problems, found = dpad.demo.problems(options.problems), {}
    for name, arms in ARMS.items():
        model, _ = dpad.demo.load(name=name)
        with dpad.patch(model):
            for arm, settings in arms.items():
                found[name, arm] = cost(model, problems, options.canvas, settings)
    rows = [
        (
            *names,
            f"{row['exact']:.1f}",
            f"{row['forwards']:.2f}",
            f"{row['positions']:.0f}",
            f"{row['seconds']:.4f}",
        )
        for names, row in found.items()
    ]
    print(table(("model", "how", "exact %", "forwards", "positions", "CPU s"), rows))
    return found


if __name__ == "__main__":
    main()
