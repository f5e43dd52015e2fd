"""Measurements as pytest items, whose figures are written as soon as they are there.

    python -m pytest benchmarks/gpu/test_step.py --figures figures.json --seconds 120
    python -m pytest benchmarks/gpu --figures figures.json --small

A measurement is a function that fills its `record`. The mark `measured` gives its name, which no
other one has; the names of its sizes, the sizes and those with --small; the seconds that it takes
at `least`; and of how many `models` it is, all by default.
"""

import signal
from pathlib import Path

import pytest
import torch

import dpad
from benchmarks.gpu import models
from benchmarks.gpu.figures import BEFORE, INCOMPLETE, STOPPED, Figures
from dpad.models.adapter import find_adapter

FIGURES, RECORD = pytest.StashKey(), pytest.StashKey()


def pytest_addoption(parser):
    add = parser.getgroup("figures of a GPU").addoption
    add("--figures", type=Path, help="file of the figures; what it holds is kept")
    add("--seconds", type=float, default=float("inf"), help="time after which nothing is begun")
    add("--patience", type=int, default=0, help="seconds until a measurement ends the process")
    add("--small", action="store_true", help="tiny shapes, on the CPU too, to try the measurements")


def pytest_generate_tests(metafunc):
    mark, small = marked(metafunc.definition), metafunc.config.getoption("small")
    if "model" in metafunc.fixturenames:
        names = list(models.shapes(small))[: mark.kwargs.get("models")]
        metafunc.parametrize("model", names, scope="module")
    if len(mark.args) > 1:
        _, names, full, tiny = mark.args
        metafunc.parametrize(names, tiny if small else full, ids=short)


def short(value):
    """A size in pytest's name of a measurement."""
    return "-".join(map(str, value)) if isinstance(value, tuple) else None


def marked(item):
    return item.get_closest_marker("measured")


def sizes_of(item):
    return item.callspec.params if hasattr(item, "callspec") else {}


def name_of(item):
    """The measurement's name."""
    return marked(item).args[0].format(**sizes_of(item))


def pytest_collection_modifyitems(config, items):
    """What has failed before comes last."""
    path, small = config.getoption("figures"), config.getoption("small")
    if config.getoption("collectonly"):
        return
    if path is None:
        raise pytest.UsageError("--figures is missing: name the file of the figures")
    if not small and not torch.cuda.is_available():
        raise pytest.UsageError("no CUDA device: torch.cuda.is_available() is False")
    config.stash[FIGURES] = figures = Figures(path, small, config.getoption("seconds"))
    items.sort(key=lambda item: "problem" in figures.records.get(name_of(item), {}))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """What is refused costs nothing: no model is built for it."""
    figures, case = item.config.stash[FIGURES], name_of(item)
    kind = item.originalname.removeprefix("test_")
    item.stash[RECORD] = record = {"case": case, "kind": kind, **sizes_of(item)}
    reason = figures.refused(case, marked(item).kwargs.get("least", 5))
    if reason is not None:
        pytest.skip(reason)
    figures.put({**record, "problem": STOPPED})
    figures.release()
    # What waits for a kernel that never ends can be stopped by nothing but the system.
    signal.alarm(item.config.getoption("patience"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.when == "teardown" or (call.when == "setup" and report.passed):
        return report
    figures, record = item.config.stash[FIGURES], item.stash[RECORD]
    signal.alarm(0)
    record["took"] = round(call.duration, 1)
    if call.excinfo is not None:
        record |= figures.reason(record["case"], call.excinfo.value)
    elif "problem" in record:
        report.outcome, report.longrepr = "failed", record["problem"]
    if record.get("skipped") != BEFORE:
        figures.put(record)
    return report


def pytest_sessionfinish(session):
    figures = session.config.stash.get(FIGURES, None)
    if figures is not None and figures.late and session.exitstatus in (0, 1):
        session.exitstatus = INCOMPLETE


@pytest.fixture(autouse=True)
def no_gradients():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


@pytest.fixture
def record(request):
    """The figures of this measurement."""
    return request.node.stash[RECORD]


@pytest.fixture(scope="session")
def figures(request):
    return request.config.stash[FIGURES]


@pytest.fixture(scope="session")
def limits(figures):
    return figures.limits


@pytest.fixture(scope="module")
def repeats(request, figures):
    """Timed turns of every function: a constant of the module."""
    return 2 if figures.small else request.module.REPEATS


@pytest.fixture(scope="module")
def shape(model, figures):
    return models.shapes(figures.small)[model]


@pytest.fixture(scope="module")
def network(shape, figures):
    """A model of that shape; of small ones outputs are compared closely."""
    figures.release()
    dtype = torch.float32 if figures.small else torch.bfloat16
    return models.build(shape, figures.device, dtype, models.LONGEST)


@pytest.fixture(scope="module")
def adapter(network):
    return find_adapter(network)


@pytest.fixture(scope="module")
def handle(network):
    with dpad.patch(network) as patched:
        yield patched
