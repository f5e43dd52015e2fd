"""Cases that may end a process: run in children that say which one they are at.

A child prints the number and the name of a case before it, and "! " and what was wrong behind it.
One that dies of a signal or stays in a case for too long is found by the last number it printed,
and the run goes on behind it.
"""

import signal
import subprocess
import sys

SECONDS = 10  # that one case may take


def serve(seed, cases, name, verdict):
    """The child: `name` makes a case of a number, `verdict` gives None or what is wrong."""
    for number in range(seed, seed + cases):
        case = name(number)
        print(f"{number} {case}".replace("\n", " "), flush=True)
        signal.alarm(SECONDS)  # ends the child
        problem = verdict(case)
        signal.alarm(0)
        if problem is not None:
            print(f"! {problem}".replace("\n", " "), flush=True)
    print("done", flush=True)


def run(report, seed, cases, code):
    """The parent: `code` starts a child, with {seed} and {cases} in it. Adds to the report."""
    for figure in ("calls", "signals", "hangs", "accepted", "unclear"):
        report.add(figure, 0)
    at, end = seed, seed + cases
    while at < end:
        text = code.format(seed=at, cases=end - at)
        command = [sys.executable, "-W", "ignore", "-c", text]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        number, what = None, None
        for line in done.stdout.splitlines():
            if line.startswith("! "):
                report.add("accepted" if line == "! accepted" else "unclear")
                report.fail(number, f"{what}: {line[2:]}")
            elif line[:1].isdigit():
                report.add("calls")
                number, what = int(line.split(" ")[0]), line.split(" ", 1)[1]
        if done.returncode == 0:
            return report
        if number is None or done.returncode > 0:
            raise RuntimeError(f"the child at case {at} failed: {done.stderr[-2000:]}")
        report.add("hangs" if -done.returncode == signal.SIGALRM else "signals")
        report.fail(number, f"{what}: ended by {signal.Signals(-done.returncode).name}")
        at = number + 1
    return report
