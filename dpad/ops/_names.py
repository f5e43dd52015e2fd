"""Names of commit rules, scopes, stops and statuses, with the numbers that operators use."""

from dpad.ops._load import constant

# Without `_C` the order of these names gives the numbers.
_NAMES = {
    "RULES": "threshold factor quota entropy_bound factor_published below at_least entropy_sum",
    "SCOPES": "all suffix block",
    "STOPS": "never block text",
    "STATUS": "running block_done finished nan invalid",
}


def _numbered(kind: str) -> dict[str, int]:
    return {name: number for number, name in enumerate(constant(kind, _NAMES[kind]).split())}


RULES, SCOPES, STOPS, STATUS = (_numbered(kind) for kind in _NAMES)
