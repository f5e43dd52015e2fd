"""Names of the commit rules, scopes and statuses, with the numbers that the operators use."""

from dpad.ops._load import constant

# Without `_C` the order of these names gives the numbers.
_NAMES = {
    "RULES": "threshold factor quota entropy_bound factor_published below",
    "SCOPES": "all suffix block",
    "STATUS": "running block_done finished nan invalid",
}


def _numbered(kind: str) -> dict[str, int]:
    return {name: number for number, name in enumerate(constant(kind, _NAMES[kind]).split())}


RULES, SCOPES, STATUS = (_numbered(kind) for kind in _NAMES)
