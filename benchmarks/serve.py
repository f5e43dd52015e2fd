"""What `dpad serve` costs and gives under load, in one run.

    python -m benchmarks.serve [--small] [--requests 48] [--rounds 3] [--output FILE]
    python -m benchmarks.serve --dtype float32 --block 32 --parts

A random model of 57 million parameters is served by two processes of `dpad serve`: one decodes 16
requests at a time, the other one. They take turns. The tables have the form of ``vllm bench
serve``; the first token of a stream comes with its first block.
"""

import argparse
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import torch

import dpad
from benchmarks import load, machine, served, stats
from benchmarks.store import write_json
from dpad import threads
from dpad.prompting import encode_text

CANVAS, TOKENS = 64, 4  # TOKENS: committed in each step
ROWS, CLIENTS, QUEUE = 16, 16, 32
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PARTS = ("one client", "busy", "overload")
BUSY, OVERLOAD = 0.7, 3.0  # arrivals by what 16 clients get

# Check -> (bound, whether it is the least or the most that the value may be).
GOALS = {
    "tokens/s of 16 clients, 16 rows by 1 row": (1.5, "least"),
    "seconds of one client by in-process": (1.1, "most"),
    "answers that differ from in-process": (0, "most"),
    "p99 by p50 of the first block, 0.7 of capacity": (5.0, "most"),
    "refused above capacity (429)": (1, "least"),
    "failed otherwise above capacity": (0, "most"),
    "growth of resident memory above capacity": (0.02, "most"),
}


def request_options(block):
    """The body of a request; every request costs the same."""
    return {
        "max_tokens": CANVAS,
        "block_length": block,
        "steps": CANVAS // TOKENS,
        "suffix": {"kind": "window", "window": block},
        "cache": "dual",
        "early_stop": False,
        "logits_eos_inf": True,
        "seed": 0,
    }


def batching(clients, prompts, rounds):
    """16 clients at either server in turns: (tables, values of checks)."""
    seen, spent = {rows: [] for rows in clients}, {rows: [] for rows in clients}
    for number in range(rounds):
        for rows in sorted(clients, reverse=bool(number % 2)):
            more, seconds = load.closed(clients[rows], prompts, CLIENTS)
            seen[rows] += more
            spent[rows].append(seconds)
    tables = {
        f"{CLIENTS} clients, {rows} rows": load.summary(seen[rows], sum(spent[rows]))
        for rows in clients
    }
    done = {name: table["completed"] for name, table in tables.items()}
    assert set(done.values()) == {rounds * len(prompts)}, f"not all were answered: {done}"
    return tables, {"tokens/s of 16 clients, 16 rows by 1 row": stats.ratio(spent[1], spent[ROWS])}


def one_client(client, model, tokenizer, prompts, body):
    """One client and `dpad.generate` with the same prompts in turns: values of checks."""
    own = {name: value for name, value in body.items() if name != "max_tokens"}
    own |= {"suffix": dpad.Suffix(**own["suffix"]), "max_new_tokens": CANVAS}

    def in_process(prompt):
        ids = encode_text(tokenizer, prompt)
        return tokenizer.decode(dpad.generate(model, [ids], **own)[0, len(ids) :])

    ways = {"client": lambda prompt: client.ask(prompt).text, "in process": in_process}
    spent, differ = {name: [] for name in ways}, 0
    in_process(prompts[0])
    for number, prompt in enumerate(prompts):
        texts = {}
        for name in sorted(ways, reverse=bool(number % 2)):
            begun = time.perf_counter()
            texts[name] = ways[name](prompt).split()
            spent[name].append(time.perf_counter() - begun)
        differ += texts["client"] != texts["in process"]
    return {}, {
        "seconds of one client by in-process": stats.ratio(spent["client"], spent["in process"]),
        "answers that differ from in-process": differ,
    }


def busy(client, prompts, capacity):
    """Arrivals at 0.7 of capacity: (tables, values of checks)."""
    found = load.summary(*load.poisson(client, prompts, BUSY * capacity, seed=1))
    spread = found["p99_ttft_ms"] / max(found["median_ttft_ms"], 1e-9)
    table = {f"arrivals at {BUSY * capacity:.2f}/s": found}
    return table, {"p99 by p50 of the first block, 0.7 of capacity": spread}


def overload(client, process, prompts, capacity):
    """Arrivals above capacity; memory is compared over the second half of them."""
    half = len(prompts) // 2
    first, seconds = load.poisson(client, prompts[:half], OVERLOAD * capacity, seed=2)
    before = served.resident(process)
    second, more = load.poisson(client, prompts[half:], OVERLOAD * capacity, seed=3)
    growth = served.resident(process) / before - 1
    found = load.summary(first + second, seconds + more)
    refused = found["statuses"].get("429", 0)
    return {f"arrivals at {OVERLOAD * capacity:.2f}/s": found}, {
        "refused above capacity (429)": refused,
        "failed otherwise above capacity": found["failed"] - refused,
        "growth of resident memory above capacity": growth,
    }


def measure(options, folder):
    """Tables of all arms, and the checks."""
    sizes = served.SMALL if options.small else served.SIZES
    model, tokenizer = served.build(folder, sizes, dtype=DTYPES[options.dtype])
    torch.set_num_threads(options.threads)
    prompts, tables, values = served.prompts(options.requests, seed=1), {}, {}
    body = request_options(options.block)
    with ExitStack() as stack:
        servers = {
            rows: stack.enter_context(served.server(folder, rows, QUEUE, options.threads))
            for rows in (ROWS, 1)
        }
        clients = {r: load.Client(url, served.NAME, body) for r, (_, url) in servers.items()}
        for client in clients.values():
            load.closed(client, served.prompts(CLIENTS, seed=0), CLIENTS)  # warms up
        found = [batching(clients, prompts, options.rounds)]
        capacity = found[0][0][f"{CLIENTS} clients, {ROWS} rows"]["request_throughput"]
        parts = {
            "one client": lambda: one_client(clients[ROWS], model, tokenizer, prompts, body),
            "busy": lambda: busy(clients[ROWS], prompts * 8, capacity),
            "overload": lambda: overload(clients[ROWS], servers[ROWS][0], prompts * 12, capacity),
        }
        found += [parts[name]() for name in parts if name in options.parts]
    for more_tables, more_values in found:
        tables |= more_tables
        values |= more_values
    checks = [checked(name, values[name], *goal) for name, goal in GOALS.items() if name in values]
    parameters = sum(weight.numel() for weight in model.parameters())
    return {"parameters": parameters, "options": body, "tables": tables, "checks": checks}


def checked(name, value, bound, direction):
    """A check as plain values; of a ratio with its interval the ratio itself decides."""
    number, *interval = value if isinstance(value, tuple) else (value,)
    met = number >= bound if direction == "least" else number <= bound
    goal = {"bound": bound, "direction": direction, "met": bool(met)}
    return {"name": name, "value": number, "interval": interval, **goal}


def line(check):
    """A check as text."""
    interval = " [{:.3f}, {:.3f}]".format(*check["interval"]) if check["interval"] else ""
    value = f"{check['value']:.4g}{interval}"
    goal = f"at {check['direction']} {check['bound']:g}: {'met' if check['met'] else 'NOT MET'}"
    return f"{check['name']}: {value} ({goal})"


def main(arguments=None):
    """Measures and prints; 0 if every goal is met, else 1."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a tiny model: only to try it")
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--block", type=int, default=16, help=f"divides {CANVAS}; a multiple of 4")
    parser.add_argument(
        "--parts", nargs="*", choices=PARTS, default=PARTS, help="batching is always run"
    )
    parser.add_argument("--threads", type=int, default=max(1, threads.available() - 1))
    parser.add_argument("--output", type=Path, help="file for all figures, as JSON")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        found = {"machine": machine.describe(), **measure(options, folder)}
    for title, figures in found["tables"].items():
        print(load.table(title, figures), end="\n\n")
    print(f"{found['parameters']:,} parameters")
    print(*map(line, found["checks"]), sep="\n")
    if options.output is not None:
        write_json(options.output, found)
    return 0 if all(check["met"] for check in found["checks"]) else 1


if __name__ == "__main__":
    raise SystemExit(main())
